import { z } from "zod";
import { accountName } from "./accounts.ts";
import { page } from "./commands.ts";
import { defineEvent, defineRequest } from "./define.ts";
import { sha256, tenantId, timestamp, uuid } from "./ids.ts";
import { clientAddress } from "./limits.ts";
import { cursor, idempotencyKey, limit } from "./vm-ops.ts";

/** Pairing codes read `mp_<secret>`: 256 bits, opaque, of use once. */
export const pairingCodePattern = /^mp_[A-Za-z0-9_-]{43}$/;
/** As many as one agent serves. */
export const agentVmsMax = 500;

export const vmUuids = z
  .array(uuid)
  .min(1)
  .max(agentVmsMax)
  .refine((all) => new Set(all).size === all.length, "names a VM twice");

/** +1 with each pairing: what an earlier key got is of no use from then on. */
export const agentEpoch = z.number().int().min(1).max(1_000_000);

export const agentView = z.object({
  agent_id: uuid,
  name: z.string(),
  state: z.enum(["paired", "revoked"]),
  epoch: agentEpoch,
  /** The VMs that it may serve. */
  vm_uuids: z.array(uuid),
  /** Of its public key (RFC 7638). */
  key_thumbprint: z.string(),
  paired_at: timestamp,
  revoked_at: timestamp.nullable(),
  /** When it got its last token. */
  last_token_at: timestamp.nullable(),
});
export type AgentView = z.infer<typeof agentView>;

export const newPairingCode = z.strictObject({
  agent_id: uuid
    .optional()
    .describe("An agent that is to be paired anew, or the id of a new one; by default a new id."),
  name: accountName.optional().describe("By default its id, or the name that the agent has."),
  vm_uuids: vmUuids
    .optional()
    .describe("The VMs that it may serve; may be left out for an agent that has some."),
});

export const pairingCodeView = z.object({
  id: uuid,
  agent_id: uuid,
  name: z.string(),
  vm_uuids: z.array(uuid),
  created_at: timestamp,
  expires_at: timestamp,
});
export type PairingCodeView = z.infer<typeof pairingCodeView>;

/** What is left out stays as it is; `vm_uuids` replaces the whole list. */
export const agentChange = z.strictObject({ name: accountName.optional(), vm_uuids: vmUuids.optional() });

/** Where the agents' broker is, without a credential; null where the agent's own settings must say it. */
const brokerUrl = z.string().max(512).nullable();
const proof = z
  .string()
  .max(4_096)
  .regex(/^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$/, "must be a compact JWS");
const publicKeyX = z.string().regex(/^[A-Za-z0-9_-]{43}$/, "must be 32 bytes in base64url");
/** The public half of an Ed25519 key (RFC 8037); the private one stays on the agent's host. */
export const agentPublicKey = z.strictObject({
  kty: z.literal("OKP"),
  crv: z.literal("Ed25519"),
  x: publicKeyX,
});
export type AgentPublicKey = z.infer<typeof agentPublicKey>;

export const pairedAgent = z.object({
  tenant_id: tenantId,
  agent: agentView,
  broker_url: brokerUrl,
});

export const agentTokens = z.object({
  tenant_id: tenantId,
  agent_id: uuid,
  epoch: agentEpoch,
  vm_uuids: z.array(uuid),
  /** Carries every queue of the agent; too long for a first frame where it serves many VMs. */
  access_token: z.string().max(128 * 1024),
  /** The same without queues: to log in with, before the other one replaces it. */
  login_token: z.string().max(2_048),
  expires_in_seconds: z.number().int().min(1),
  broker_url: brokerUrl,
});
export type AgentTokens = z.infer<typeof agentTokens>;

const byAddress = { client_address: clientAddress.optional() };

/** Agents: paired once by a code, then known by the key that never leaves their host. */
export const pairingRequests = {
  createPairingCode: defineRequest({
    owner: "auth",
    name: "auth.pairing-code.create.v1",
    summary: "A code by which an agent is paired, once, within ten minutes.",
    payload: z.object({ pairing_code: newPairingCode, idempotency_key: idempotencyKey.optional() }),
    reply: z.object({
      pairing_code: pairingCodeView,
      /** In the first answer alone; it is kept nowhere. */
      code: z.string().max(128).nullable(),
      replayed: z.boolean(),
    }),
    codes: ["PAIRING_CODES_TOO_MANY", "IDEMPOTENCY_KEY_REUSED"],
  }),
  pairAgent: defineRequest({
    owner: "auth",
    name: "auth.agent.pair.v1",
    summary: "Pair an agent by the hash of a code and a public key whose private half it has.",
    payload: z.object({
      code_sha256: sha256,
      public_key: agentPublicKey,
      /** A JWS by that key over `{aud: "muster:pair", sub: <code_sha256>, iat}`. */
      proof,
      ...byAddress,
    }),
    reply: pairedAgent,
    codes: ["PAIRING_CODE_INVALID"],
    identity: "none",
    limits: ["failures-by-address"],
  }),
  issueAgentTokens: defineRequest({
    owner: "auth",
    name: "auth.agent.token.v1",
    summary: "The broker's tokens for an assertion that an agent has signed (RFC 7523).",
    payload: z.object({ assertion: proof, ...byAddress }),
    reply: agentTokens,
    payloadBytesMax: 16 * 1024,
    codes: ["INVALID_GRANT"],
    identity: "none",
    limits: [
      "failures-by-address",
      "failures-by-credential",
      "tokens-by-principal",
      "agent-tokens-by-tenant",
    ],
  }),
  getAgentKey: defineRequest({
    owner: "auth",
    name: "auth.agent-key.get.v1",
    callers: ["secrets"],
    summary: "The public key that an agent was paired by.",
    payload: z.object({ tenant_id: tenantId, agent_id: uuid }),
    reply: z.object({ state: agentView.shape.state, epoch: agentEpoch, public_key: agentPublicKey }),
    codes: ["AGENT_NOT_FOUND"],
    identity: "none",
  }),
  listPairedAgents: defineRequest({
    owner: "auth",
    name: "auth.agent.list.v1",
    summary: "List the tenant's agents, last paired first.",
    payload: z.object({ limit, cursor: cursor.optional() }),
    reply: page(agentView),
    codes: ["CURSOR_INVALID"],
  }),
  getPairedAgent: defineRequest({
    owner: "auth",
    name: "auth.agent.get.v1",
    summary: "Read one agent of the tenant.",
    payload: z.object({ agent_id: uuid }),
    reply: agentView,
    codes: ["AGENT_NOT_FOUND"],
  }),
  updatePairedAgent: defineRequest({
    owner: "auth",
    name: "auth.agent.update.v1",
    summary: "Change an agent's name, or the VMs that it may serve.",
    payload: z.object({ agent_id: uuid, change: agentChange }),
    reply: agentView,
    codes: ["AGENT_NOT_FOUND", "AGENT_REVOKED"],
  }),
  revokeAgent: defineRequest({
    owner: "auth",
    name: "auth.agent.revoke.v1",
    summary:
      "Revoke an agent: no token for it, its connections closed, its reports refused. Again is harmless.",
    payload: z.object({ agent_id: uuid }),
    reply: agentView,
    codes: ["AGENT_NOT_FOUND"],
  }),
} as const;

/** An agent as it is from now on; a revision that is not above the one known says nothing new. */
export const agentChanged = defineEvent({
  owner: "auth",
  name: "auth.agent.changed.v1",
  summary: "An agent was paired, paired anew, changed or revoked: what it may do from now on.",
  payload: z.object({
    agent_id: uuid,
    revision: z.number().int().min(1),
    state: agentView.shape.state,
    epoch: agentEpoch,
    vm_uuids: z.array(uuid).max(agentVmsMax),
    at: timestamp,
  }),
});

/** RFC 7523: what an assertion is for. */
export const assertionAudience = "muster:token";
export const pairingAudience = "muster:pair";
/** Life of an assertion, as its maker may set it. */
export const assertionSecondsMax = 120;
