import { z } from "zod";
import { uuid } from "../ids.ts";
import {
  agentChange,
  agentPublicKey,
  agentView,
  newPairingCode,
  pairedAgent,
  pairingCodeView,
  pairingRequests,
} from "../pairing.ts";
import { defineRoute, pageFields } from "../route.ts";

const path = "/api/v1/agents";
const byId = z.object({ agent_id: uuid });

/** Agents by their identity; whether they are online is reliability's: GET /api/v1/reliability/agents. */
export const agentRoutes = {
  createPairingCode: defineRoute({
    method: "POST",
    path: `${path}/pairing-codes`,
    summary:
      "Make a code that pairs one agent, once, within ten minutes; it is in this answer and never again.",
    tag: "agents",
    access: "admin",
    body: newPairingCode,
    status: 201,
    reply: z.object({ pairing_code: pairingCodeView, code: z.string().nullable() }),
    codes: ["PAIRING_CODES_TOO_MANY", "IDEMPOTENCY_KEY_REUSED"],
  }),
  pairAgent: defineRoute({
    method: "POST",
    path: `${path}/pair`,
    summary: "Pair an agent by its code and its public key; the agent's own `pair` program does it.",
    tag: "agents",
    access: "public",
    limits: pairingRequests.pairAgent.limits,
    body: z.strictObject({
      code: z.string().max(128),
      public_key: agentPublicKey,
      proof: pairingRequests.pairAgent.payload.shape.proof.describe(
        "A JWS by that key: aud `muster:pair`, sub the lower-case hex SHA-256 of the code, iat.",
      ),
    }),
    bodyBytesMax: 16 * 1024,
    status: 200,
    reply: pairedAgent,
    codes: ["PAIRING_CODE_INVALID"],
  }),
  listPairedAgents: defineRoute({
    method: "GET",
    path,
    summary: "List agents, last paired first.",
    tag: "agents",
    access: "admin",
    query: z.strictObject(pageFields),
    status: 200,
    reply: z.object({ agents: z.array(agentView) }),
    meta: "cursor",
    codes: [],
  }),
  getPairedAgent: defineRoute({
    method: "GET",
    path: `${path}/{agent_id}`,
    summary: "Read one agent.",
    tag: "agents",
    access: "admin",
    params: byId,
    status: 200,
    reply: z.object({ agent: agentView }),
    codes: ["AGENT_NOT_FOUND"],
  }),
  updatePairedAgent: defineRoute({
    method: "PATCH",
    path: `${path}/{agent_id}`,
    summary: "Change an agent's name, or the VMs that it may serve.",
    tag: "agents",
    access: "admin",
    params: byId,
    body: agentChange,
    status: 200,
    reply: z.object({ agent: agentView }),
    codes: ["AGENT_NOT_FOUND", "AGENT_REVOKED"],
  }),
  revokeAgent: defineRoute({
    method: "POST",
    path: `${path}/{agent_id}/revoke`,
    summary:
      "Revoke an agent at once: no token for it, its connections closed, its reports refused. Again is harmless.",
    tag: "agents",
    access: "admin",
    params: byId,
    status: 200,
    reply: z.object({ agent: agentView }),
    codes: ["AGENT_NOT_FOUND"],
  }),
} as const;
