import { z } from "zod";
import { defineReport } from "./define.ts";
import { uuid } from "./ids.ts";
import { secretReference, secretReferencesMax, secretVersion } from "./secret-references.ts";
import { bindingAppearance, publicKeyX, sealed, vaultCodes } from "./secrets.ts";

/** Queue of the secrets service for what agents ask. */
export const secretsAgentsQueue = "secrets.agents";

/** What an agent's identity key signs (Ed25519, in base64url) beside the key that it wants to be answered by. */
export const resolveProofText = (o: {
  tenant: string;
  agentId: string;
  commandId: string;
  attempt: number;
  nonce: string;
  x: string;
}): string => `muster.secrets.resolve:${o.tenant}:${o.agentId}:${o.commandId}:${o.attempt}:${o.nonce}:${o.x}`;

export const agentResolve = defineReport({
  owner: "secrets",
  name: "secrets.agent.resolve.v1",
  report: "resolve",
  summary:
    "Ask for the secrets that a granted command names: once for each attempt, answered to a key that only the asking agent has.",
  payload: z.object({
    command_id: uuid,
    attempt: z.number().int().min(1).max(1_000_000),
    /** The fencing token of the grant. */
    token: z.string().min(16).max(128),
    /** The same question again, when no answer came, has the same nonce and key. */
    nonce: uuid,
    references: z.array(secretReference).min(1).max(secretReferencesMax),
    /** A key (X25519) made for this question. */
    x: publicKeyX,
    /** By the agent's identity key, over `resolveProofText`. */
    proof: z.string().regex(/^[A-Za-z0-9_-]{86}$/, "must be 64 bytes in base64url"),
  }),
  payloadBytesMax: 16 * 1024,
  reply: z.object({
    /** Counted by the agent's monotonic clock from the moment it asked; it gives the material to nobody after. */
    lease_ms: z.number().int().min(1),
    /** JSON of `resolvedSecrets`, about `sealedFor.attempt`. */
    sealed,
  }),
  codes: [
    ...(["AGENT_KEY_UNKNOWN", "ATTEMPT_NOT_RUNNING", "SECRET_NOT_BOUND", "SECRET_DISABLED"] as const),
    ...([
      "SECRET_VERSION_NOT_FOUND",
      "SECRET_FIELD_NOT_FOUND",
      "SECRET_LEASE_USED",
      "SECRET_LEASE_EXPIRED",
    ] as const),
    ...vaultCodes,
  ],
  timeoutMs: 15_000,
  batch: { sizeMax: 1, waitMs: 0 },
});

/** In the order of the references that were asked for. */
export const resolvedSecrets = z.array(
  z.object({
    reference: secretReference,
    version: secretVersion,
    value: z.string(),
    /** Where it belongs when the command does not say. */
    as: bindingAppearance,
  }),
);
export type ResolvedSecrets = z.infer<typeof resolvedSecrets>;

export const secretsReports = { resolve: agentResolve } as const;
