import type { ErrorMeaning } from "./errors.ts";

/** What may go wrong with secrets; part of the one registry in errors.ts. */
export const secretErrorCodes = {
  SECRET_NOT_FOUND: {
    status: 404,
    retriable: false,
    sentence: "No such secret in this tenant; see GET /api/v1/secrets.",
  },
  SECRET_VERSION_NOT_FOUND: {
    status: 404,
    retriable: false,
    sentence: "The secret has no such version, or it was destroyed; see GET /api/v1/secrets/{id}/versions.",
  },
  SECRET_FIELD_NOT_FOUND: {
    status: 404,
    retriable: false,
    sentence: "The secret has no such field, or several and the reference names none: secret://name#field.",
  },
  SECRET_ALREADY_EXISTS: {
    status: 409,
    retriable: false,
    sentence: "A secret of this name is in this tenant; add a version to it or choose another name.",
  },
  SECRETS_TOO_MANY: {
    status: 409,
    retriable: false,
    sentence: "The tenant has as many secrets as it may; delete one first.",
  },
  SECRET_VERSIONS_TOO_MANY: {
    status: 409,
    retriable: false,
    sentence: "The secret has as many versions as it may; make a new secret.",
  },
  SECRET_DISABLED: {
    status: 409,
    retriable: false,
    sentence: "The secret is disabled and given to nobody; enable it first.",
  },
  SECRET_NOT_BOUND: {
    status: 403,
    retriable: false,
    sentence: "No secret of this name is bound to this VM or project; see GET /api/v1/secrets/bindings.",
  },
  SECRET_LEASE_USED: {
    status: 409,
    retriable: false,
    sentence: "This attempt was given its secrets before; they are given once.",
  },
  SECRET_LEASE_EXPIRED: {
    status: 409,
    retriable: false,
    sentence: "The lease has ended, expired or was revoked; the command must run anew.",
  },
  BINDING_NOT_FOUND: {
    status: 404,
    retriable: false,
    sentence: "No such binding in this tenant; see GET /api/v1/secrets/bindings.",
  },
  BINDING_ALREADY_EXISTS: {
    status: 409,
    retriable: false,
    sentence: "The secret is bound to this target in this way; remove that binding first.",
  },
  BINDINGS_TOO_MANY: {
    status: 409,
    retriable: false,
    sentence: "The secret has as many bindings as it may; bind it by labels or by project.",
  },
  LEASE_NOT_FOUND: {
    status: 404,
    retriable: false,
    sentence: "No such lease in this tenant; see GET /api/v1/secrets/leases.",
  },
  ROTATION_NOT_FOUND: {
    status: 404,
    retriable: false,
    sentence: "The secret has no such rotation; see GET /api/v1/secrets/{id}/rotations.",
  },
  ROTATION_RUNNING: {
    status: 409,
    retriable: false,
    sentence: "A rotation of this secret runs; wait until its follow-ups have ended, or add a version.",
  },
  ATTEMPT_NOT_RUNNING: {
    status: 409,
    retriable: false,
    sentence: "No attempt of this agent runs that this token was granted for, or it names no such reference.",
  },
  AGENT_KEY_UNKNOWN: {
    status: 403,
    retriable: false,
    sentence: "The agent was not paired by a key that secrets could be sealed to; pair it again.",
  },
  VAULT_UNAVAILABLE: {
    status: 503,
    retriable: true,
    sentence: "The vault does not answer, or is sealed; retry after the time given.",
  },
  VAULT_REFUSED: {
    status: 502,
    retriable: false,
    sentence:
      "The vault refuses what it was asked, or its answer makes no sense; an operator must look at its policy.",
  },
  SEALING_KEY_UNKNOWN: {
    status: 409,
    retriable: true,
    sentence:
      "What was sent is sealed by a key that is not in use any more; ask for the key and send it again.",
  },
} as const satisfies Record<string, ErrorMeaning>;
