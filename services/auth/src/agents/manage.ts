import type { RequestContext } from "@muster/broker/broker";
import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import { pairingCodeView } from "@muster/contracts/pairing";
import type { AgentView, pairingRequests } from "@muster/contracts/pairing";
import type { Database, Tx } from "@muster/database/database";
import { recordAudit } from "../audit/store.ts";
import { callerOf, changerOf, scopeOf } from "../caller.ts";
import type { Caller } from "../caller.ts";
import { once } from "../creations.ts";
import { pageOf, placeOf } from "@muster/database/page";
import { storable } from "../text.ts";
import { announceAgent } from "./announce.ts";
import { newPairingCode } from "./code.ts";
import { evict } from "./evictions.ts";
import type { Evictions } from "./evictions.ts";
import {
  agentViewOf,
  changeAgent,
  codeViewOf,
  countOpenCodes,
  findAgent,
  findAgentOfActive,
  insertCode,
  listAgentRows,
  lockAgent,
  markRevoked,
} from "./store.ts";
import type { AgentRow, CodeRow } from "./store.ts";

type Requests = typeof pairingRequests;
type Create = Requests["createPairingCode"];
type Wanted = PayloadOf<Create>["pairing_code"];
type Db = Pick<Database, "transaction">;

/** Of one tenant, at once. */
export const openCodesMax = 500;
const codeLifeSeconds = 600;

/** Throws PAIRING_CODES_TOO_MANY, IDEMPOTENCY_KEY_REUSED, VALIDATION_FAILED where a new agent has no VM. */
export async function createPairingCode(
  database: Db,
  { pairing_code: wanted, idempotency_key: key }: PayloadOf<Create>,
  context: RequestContext,
): Promise<ReplyInputOf<Create>> {
  return await database.transaction(scopeOf(context), async (tx) => {
    const caller = await changerOf(tx, context, "admin");
    let secret: string | null = null;
    const what = { kind: "pairing-code", key, requested: wanted, answer: pairingCodeView } as const;
    const { answer, replayed } = await once(tx, caller, what, async () => {
      const made = await makeCode(tx, caller, wanted);
      secret = made.code;
      return codeViewOf(made.row);
    });
    return { pairing_code: answer, code: secret, replayed };
  });
}

async function makeCode(tx: Tx, caller: Caller, wanted: Wanted): Promise<{ row: CodeRow; code: string }> {
  const { tenantId } = caller;
  const agentId = wanted.agent_id ?? uuidv7();
  const known = await findAgent(tx, tenantId, agentId);
  const vmUuids = wanted.vm_uuids ?? known?.vm_uuids;
  if (vmUuids === undefined) {
    const details = [{ path: "vm_uuids", message: "is needed for a new agent" }];
    throw new MusterError("VALIDATION_FAILED", undefined, { details });
  }
  // Under the tenant's lock: nobody else makes one meanwhile.
  if ((await countOpenCodes(tx, tenantId)) >= openCodesMax) throw new MusterError("PAIRING_CODES_TOO_MANY");
  const { code, hash } = newPairingCode();
  const name = storable(wanted.name ?? known?.name ?? agentId);
  const lifeSeconds = codeLifeSeconds;
  const row = await insertCode(tx, {
    ...{ id: uuidv7(), tenantId, hash, agentId, name, vmUuids, lifeSeconds },
    createdBy: caller.subject,
  });
  await recordAudit(tx, {
    tenantId,
    actor: caller.subject,
    action: "pairing-code.created",
    subject: `pairing-code:${row.id}`,
    details: { agent: agentId, vms: String(vmUuids.length) },
  });
  return { row, code };
}

export function listPairedAgents(
  database: Db,
  o: PayloadOf<Requests["listPairedAgents"]>,
  context: RequestContext,
): Promise<ReplyInputOf<Requests["listPairedAgents"]>> {
  const list = async (tx: Tx) => {
    const { tenantId } = await callerOf(tx, context, "admin");
    const before = placeOf(o.cursor);
    return pageOf(await listAgentRows(tx, { tenantId, before, limit: o.limit + 1 }), o.limit, agentViewOf);
  };
  return database.transaction(scopeOf(context), list, { readOnly: true });
}

/** Throws AGENT_NOT_FOUND. */
export function getPairedAgent(database: Db, id: string, context: RequestContext): Promise<AgentView> {
  const get = async (tx: Tx) => {
    const { tenantId } = await callerOf(tx, context, "admin");
    return agentViewOf(found(await findAgent(tx, tenantId, id)));
  };
  return database.transaction(scopeOf(context), get, { readOnly: true });
}

/**
 * For a service that has something for the agent alone. An agent of a tenant that is not active is as good as none. Throws
 * AGENT_NOT_FOUND.
 */
export function getAgentKey(
  database: Db,
  { tenant_id: tenantId, agent_id: id }: PayloadOf<Requests["getAgentKey"]>,
): Promise<ReplyInputOf<Requests["getAgentKey"]>> {
  const get = async (tx: Tx) => {
    const row = found(await findAgentOfActive(tx, tenantId, id));
    const { state, epoch } = agentViewOf(row);
    return { state, epoch, public_key: { kty: "OKP", crv: "Ed25519", x: row.public_key } as const };
  };
  return database.transaction({ tenants: [tenantId] }, get, { readOnly: true });
}

/** Throws AGENT_NOT_FOUND, AGENT_REVOKED. */
export async function updatePairedAgent(
  database: Db,
  { agent_id: id, change }: PayloadOf<Requests["updatePairedAgent"]>,
  context: RequestContext,
): Promise<AgentView> {
  return await database.transaction(scopeOf(context), async (tx) => {
    const caller = await changerOf(tx, context, "admin");
    const row = found(await lockAgent(tx, caller.tenantId, id));
    if (row.revoked_at !== null) throw new MusterError("AGENT_REVOKED");
    const changed = await changeAgent(
      tx,
      { tenantId: caller.tenantId, id },
      {
        name: change.name === undefined ? null : storable(change.name),
        vmUuids: change.vm_uuids ?? null,
      },
    );
    const details = { name: changed.name, vms: String(changed.vm_uuids.length) };
    await audit(tx, caller, changed, "changed", details);
    announceAgent(tx, changed, context);
    return agentViewOf(changed);
  });
}

/** From the commit on it gets no token and its reports are refused; its connections are closed right after. Throws AGENT_NOT_FOUND. */
export async function revokeAgent(
  { database, evictions }: { readonly database: Db; readonly evictions: Pick<Evictions, "wake"> },
  id: string,
  context: RequestContext,
): Promise<AgentView> {
  const view = await database.transaction(scopeOf(context), async (tx) => {
    const caller = await changerOf(tx, context, "admin");
    const row = found(await lockAgent(tx, caller.tenantId, id));
    if (row.revoked_at !== null) return agentViewOf(row);
    const revoked = await markRevoked(tx, caller.tenantId, id);
    await evict(tx, revoked);
    await audit(tx, caller, revoked, "revoked", { epoch: String(revoked.epoch) });
    announceAgent(tx, revoked, context);
    return agentViewOf(revoked);
  });
  evictions.wake();
  return view;
}

function found(row: AgentRow | undefined): AgentRow {
  if (row === undefined) throw new MusterError("AGENT_NOT_FOUND");
  return row;
}

function audit(
  tx: Tx,
  caller: Caller,
  row: AgentRow,
  what: "changed" | "revoked",
  details: Record<string, string>,
): Promise<void> {
  return recordAudit(tx, {
    tenantId: caller.tenantId,
    actor: caller.subject,
    action: `agent.${what}`,
    subject: `agent:${row.id}`,
    details,
  });
}
