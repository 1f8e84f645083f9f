import { z } from "zod";
import { secretErrorCodes } from "./secret-errors.ts";

/**
 * What a code means to whoever receives it.
 * `status` is the HTTP status; `retriable` says that the same call may succeed later without a change;
 * `sentence` is public and says what to do.
 */
export interface ErrorMeaning {
  readonly status: number;
  readonly retriable: boolean;
  readonly sentence: string;
}

/** The closed registry of error codes. A code appears in replies, logs, metric labels and docs/failure-modes.md. */
export const errorCodes = {
  // The request itself
  BAD_JSON: { status: 400, retriable: false, sentence: "The body is not valid JSON; send one JSON object." },
  VALIDATION_FAILED: {
    status: 400,
    retriable: false,
    sentence: "The request does not fit its contract; details name each fault by path.",
  },
  IDEMPOTENCY_KEY_INVALID: {
    status: 400,
    retriable: false,
    sentence: "Idempotency-Key must be 1 to 255 visible ASCII characters.",
  },
  CURSOR_INVALID: {
    status: 400,
    retriable: false,
    sentence: "The cursor was not made by this listing; start again without it.",
  },
  BODY_TOO_LARGE: { status: 413, retriable: false, sentence: "The body is larger than 1 MiB; send less." },
  UNSUPPORTED_MEDIA_TYPE: {
    status: 415,
    retriable: false,
    sentence: "Send the body as application/json.",
  },
  ROUTE_NOT_FOUND: {
    status: 404,
    retriable: false,
    sentence: "No such route; see GET /api/v1/openapi.json.",
  },
  METHOD_NOT_ALLOWED: {
    status: 405,
    retriable: false,
    sentence: "This route exists with other methods; see the Allow header.",
  },
  // Identity
  MISSING_BEARER_TOKEN: {
    status: 401,
    retriable: false,
    sentence: "Send Authorization: Bearer with an access token or an API key.",
  },
  INVALID_OR_MISSING_BEARER_TOKEN: {
    status: 401,
    retriable: false,
    sentence: "The token or API key is malformed, unknown, expired or revoked; get a new one.",
  },
  INVALID_CLIENT: {
    status: 401,
    retriable: false,
    sentence: "The client's id or secret is missing, unknown, expired or revoked; get a new secret for it.",
  },
  INVALID_GRANT: {
    status: 400,
    retriable: false,
    sentence:
      "The refresh token, subject token or assertion is malformed, unknown, used, expired, revoked or not trusted; get a new one.",
  },
  INVALID_SCOPE: {
    status: 400,
    retriable: false,
    sentence: "The scope asks for more than the credential has; details name what. Ask for less.",
  },
  FORBIDDEN: {
    status: 403,
    retriable: false,
    sentence: "You are known but may not do this; details name the missing permission.",
  },
  // Things that are not there, or not so
  VM_NOT_FOUND: {
    status: 404,
    retriable: false,
    sentence: "No such VM in this tenant; see GET /api/v1/vms.",
  },
  COMMAND_NOT_FOUND: {
    status: 404,
    retriable: false,
    sentence: "No such command in this tenant; see GET /api/v1/vm-ops/commands.",
  },
  DEAD_LETTER_NOT_FOUND: {
    status: 404,
    retriable: false,
    sentence: "No such dead letter in this tenant; see GET /api/v1/reliability/dead-letters.",
  },
  API_KEY_NOT_FOUND: {
    status: 404,
    retriable: false,
    sentence: "No such API key among those that you may see; see GET /api/v1/auth/api-keys.",
  },
  SIGNING_KEY_NOT_FOUND: {
    status: 404,
    retriable: false,
    sentence: "No signing key has this kid; see GET /api/v1/auth/signing-keys.",
  },
  ISSUER_NOT_FOUND: {
    status: 404,
    retriable: false,
    sentence: "No such issuer in this tenant; see GET /api/v1/auth/issuers.",
  },
  AGENT_NOT_FOUND: {
    status: 404,
    retriable: false,
    sentence: "No such agent in this tenant; see GET /api/v1/agents.",
  },
  PAIRING_CODE_INVALID: {
    status: 400,
    retriable: false,
    sentence: "The pairing code is malformed, unknown, used or expired; make a new one.",
  },
  PAIRING_CODES_TOO_MANY: {
    status: 409,
    retriable: false,
    sentence:
      "The tenant has as many open pairing codes as it may; wait until some were used or have expired.",
  },
  ACCOUNT_NOT_FOUND: {
    status: 404,
    retriable: false,
    sentence: "No such user or service account in this tenant; see GET /api/v1/users or /service-accounts.",
  },
  ACCOUNT_DISABLED: {
    status: 409,
    retriable: false,
    sentence: "The user or service account is disabled and takes no change; make another.",
  },
  ACCOUNT_EXTERNAL: {
    status: 409,
    retriable: false,
    sentence:
      "An outside issuer vouches for this user: role and permissions come from there, and it has no API keys.",
  },
  API_KEYS_TOO_MANY: {
    status: 409,
    retriable: false,
    sentence: "The account has as many working API keys as it may have; revoke one first.",
  },
  USER_ALREADY_EXISTS: {
    status: 409,
    retriable: false,
    sentence: "A user with this email address is in this tenant, perhaps disabled; see GET /api/v1/users.",
  },
  ISSUER_ALREADY_EXISTS: {
    status: 409,
    retriable: false,
    sentence: "This tenant trusts this issuer for this audience; remove that entry first.",
  },
  ISSUERS_TOO_MANY: {
    status: 409,
    retriable: false,
    sentence: "The tenant trusts as many issuers as it may; remove one first.",
  },
  TENANT_ALREADY_EXISTS: {
    status: 409,
    retriable: false,
    sentence: "A tenant with this id exists; choose another id.",
  },
  LAST_OWNER: {
    status: 409,
    retriable: false,
    sentence: "This is the tenant's last owner; make another user an owner first.",
  },
  VM_ALREADY_REGISTERED: {
    status: 409,
    retriable: false,
    sentence: "A VM with this vm_uuid is registered in this tenant; read it or choose another.",
  },
  VM_RETIRED: { status: 409, retriable: false, sentence: "The VM is retired and takes no more commands." },
  VM_QUEUE_FULL: {
    status: 429,
    retriable: true,
    sentence: "Too many commands wait for this VM; wait until some have ended.",
  },
  IDEMPOTENCY_KEY_REUSED: {
    status: 409,
    retriable: false,
    sentence: "This Idempotency-Key was used with another body; details name what differs. Use a new key.",
  },
  ACTION_NOT_SUPPORTED: {
    status: 422,
    retriable: false,
    sentence: "No driver of this VM's agent has this action.",
  },
  TOO_LATE: {
    status: 409,
    retriable: false,
    sentence: "The command has already ended; its result stands.",
  },
  NOT_REPLAYABLE: {
    status: 409,
    retriable: false,
    sentence: "This dead letter was replayed or discarded before, or its command is no longer dead-lettered.",
  },
  // The agent protocol
  AGENT_SUPERSEDED: {
    status: 409,
    retriable: false,
    sentence: "A newer session of this agent was accepted; this one must stop.",
  },
  AGENT_QUARANTINED: {
    status: 403,
    retriable: false,
    sentence:
      "The agent's journal or generation ran backwards (a clone or an old snapshot); an operator must release it.",
  },
  AGENT_REVOKED: {
    status: 403,
    retriable: false,
    sentence: "The agent is not paired, was revoked, or was paired anew since; pair it again.",
  },
  STALE_TOKEN: {
    status: 409,
    retriable: false,
    sentence: "The claim's token is no longer the current one; the report was refused and counted.",
  },
  // Secrets, and the vault behind them
  ...secretErrorCodes,
  // The system
  RATE_LIMITED: { status: 429, retriable: true, sentence: "Too many requests; retry after the time given." },
  BACKPRESSURE: {
    status: 503,
    retriable: true,
    sentence: "The system accepts no new work for the moment; retry after the time given.",
  },
  DEPENDENCY_UNAVAILABLE: {
    status: 503,
    retriable: true,
    sentence: "A part that is needed for this does not answer; retry after the time given.",
  },
  DEADLINE_EXCEEDED: {
    status: 503,
    retriable: true,
    sentence: "The answer did not come in time; retry with the same Idempotency-Key.",
  },
  DRAINING: {
    status: 503,
    retriable: true,
    sentence: "This process is stopping; retry at once, another will answer.",
  },
  CONTRACT_VIOLATION: {
    status: 502,
    retriable: false,
    sentence: "A message broke its contract and was not processed; details name the fault by path.",
  },
  UNSUPPORTED_MESSAGE: {
    status: 501,
    retriable: false,
    sentence: "The owner of this queue does not know this message type; upgrade it or send a known type.",
  },
  INTERNAL: {
    status: 500,
    retriable: false,
    sentence: "We failed; the correlation id finds the cause in our logs.",
  },
} as const satisfies Record<string, ErrorMeaning>;

export type ErrorCode = keyof typeof errorCodes;

export const errorCode = z.enum(Object.keys(errorCodes) as [ErrorCode, ...ErrorCode[]]);

/** One fault in what was sent: where, what, and what to do. */
export const faultDetail = z.object({ path: z.string(), message: z.string() });
export type FaultDetail = z.infer<typeof faultDetail>;

/** The shape of an error on the mesh and, inside `{success:false, error}`, over HTTP. */
export const wireError = z.object({
  code: errorCode,
  message: z.string(),
  details: z.array(faultDetail).max(100).optional(),
  retry_after_ms: z.number().int().min(0).optional(),
});
export type WireError = z.infer<typeof wireError>;

/** A refusal that whoever asked may read. `cause` and anything in it stays in our logs. */
export class MusterError extends Error {
  override readonly name = "MusterError";
  readonly code: ErrorCode;
  readonly details: readonly FaultDetail[];
  readonly retryAfterMs: number | undefined;

  constructor(
    code: ErrorCode,
    message: string = errorCodes[code].sentence,
    options: { details?: readonly FaultDetail[]; retryAfterMs?: number | undefined; cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.details = options.details ?? [];
    this.retryAfterMs = options.retryAfterMs;
  }

  get status(): number {
    return errorCodes[this.code].status;
  }

  get retriable(): boolean {
    return errorCodes[this.code].retriable;
  }

  toWire(): WireError {
    const wire: WireError = { code: this.code, message: this.message };
    if (this.details.length > 0) wire.details = this.details.slice(0, 100);
    if (this.retryAfterMs !== undefined) wire.retry_after_ms = this.retryAfterMs;
    return wire;
  }

  static fromWire(wire: WireError): MusterError {
    return new MusterError(wire.code, wire.message, {
      details: wire.details ?? [],
      retryAfterMs: wire.retry_after_ms,
    });
  }
}

/** Turns zod's issues into faults whose paths read like `params.args[0]`; at most 100. */
export function faultsOf(error: z.ZodError, root = ""): FaultDetail[] {
  return error.issues.slice(0, 100).flatMap((issue) => {
    if (issue.code === "unrecognized_keys") {
      return issue.keys.map((key) => ({
        path: pathText(root, [...issue.path, key]),
        message: "unknown field; remove it",
      }));
    }
    return [{ path: pathText(root, issue.path), message: issue.message }];
  });
}

function pathText(root: string, path: readonly PropertyKey[]): string {
  let text = root;
  for (const part of path) {
    text += typeof part === "number" ? `[${part}]` : text === "" ? String(part) : `.${String(part)}`;
  }
  return text === "" ? "(whole)" : text;
}
