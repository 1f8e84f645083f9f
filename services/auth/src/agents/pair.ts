import type { RequestContext } from "@muster/broker/broker";
import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import type { pairingRequests } from "@muster/contracts/pairing";
import type { Database, Tx } from "@muster/database/database";
import type { Logger } from "@muster/telemetry/logger";
import { storedHash } from "../api-keys/key.ts";
import { recordAudit } from "../audit/store.ts";
import type { Limits, Outcome } from "../limits/limits.ts";
import { announceAgent } from "./announce.ts";
import { evict } from "./evictions.ts";
import type { Evictions } from "./evictions.ts";
import { ProofRefused, thumbprintOf, verifyPairing } from "./proof.ts";
import { agentViewOf, findAgent, lockAgent, lockCode, markCodeUsed, pairRow } from "./store.ts";
import type { AgentRow, CodeRow } from "./store.ts";

type Contract = (typeof pairingRequests)["pairAgent"];
type Asked = PayloadOf<Contract>;

export interface PairDeps {
  readonly database: Pick<Database, "transaction">;
  readonly limits: Pick<Limits, "count">;
  readonly contract: Contract;
  readonly evictions: Pick<Evictions, "wake">;
  readonly brokerUrl: string | null;
  readonly logger: Logger;
  /** Milliseconds since 1970. */
  readonly now: () => number;
}

/**
 * An agent, or the same one anew, by a code that works once. The same code with the same key again, while the code would
 * still be of use, gets the same answer: the first one may have been lost. Throws PAIRING_CODE_INVALID, RATE_LIMITED.
 */
export async function pairAgent(
  deps: PairDeps,
  asked: Asked,
  context: RequestContext,
): Promise<ReplyInputOf<Contract>> {
  const { database, limits, contract, evictions, logger } = deps;
  const thumbprint = await thumbprintOf(asked.public_key);
  const refused = await proofFault(deps, asked);
  const paired = await database.transaction("system", async (tx) => {
    const code = refused === undefined ? await lockCode(tx, storedHash(asked.code_sha256)) : undefined;
    const done = code === undefined ? undefined : await pairBy(tx, code, { asked, thumbprint, context });
    const address = asked.client_address;
    const outcome: Outcome =
      done === undefined
        ? { address, failed: true, credentials: [] }
        : { address, failed: false, who: { tenantId: done.row.tenant_id, subject: `agent:${done.row.id}` } };
    const [limited] = await limits.count(tx, contract, [outcome]);
    if (limited !== undefined && done !== undefined) throw limited;
    // Answered and not thrown: what was counted is kept.
    return limited ?? done;
  });
  if (paired instanceof MusterError) throw paired;
  if (paired === undefined) {
    if (refused !== undefined) logger.info({ err: refused }, "the proof of a pairing was refused");
    throw new MusterError("PAIRING_CODE_INVALID");
  }
  if (paired.evicts) evictions.wake();
  const { row } = paired;
  return { tenant_id: row.tenant_id, agent: agentViewOf(row), broker_url: deps.brokerUrl };
}

async function proofFault({ now }: PairDeps, asked: Asked): Promise<ProofRefused | undefined> {
  const { proof, public_key: key, code_sha256: codeSha256 } = asked;
  try {
    await verifyPairing(proof, { key, codeSha256, nowMs: now() });
    return undefined;
  } catch (error) {
    if (error instanceof ProofRefused) return error;
    throw error;
  }
}

interface Done {
  readonly row: AgentRow;
  /** An earlier pairing's connections are to be closed. */
  readonly evicts: boolean;
}

/** Undefined where the code is of no use. */
async function pairBy(
  tx: Tx,
  code: CodeRow,
  o: { readonly asked: Asked; readonly thumbprint: string; readonly context: RequestContext },
): Promise<Done | undefined> {
  if (code.expired) return undefined;
  if (code.used_by !== null) return await pairedBefore(tx, code, o.thumbprint);
  const before = await lockAgent(tx, code.tenant_id, code.agent_id);
  const row = await pairRow(tx, {
    id: code.agent_id,
    tenantId: code.tenant_id,
    name: code.name,
    publicKey: o.asked.public_key.x,
    thumbprint: o.thumbprint,
    vmUuids: code.vm_uuids,
  });
  if (row === undefined) return undefined;
  if (before !== undefined) await evict(tx, before);
  await markCodeUsed(tx, code.id, { thumbprint: o.thumbprint, epoch: row.epoch });
  await recordAudit(tx, {
    tenantId: row.tenant_id,
    actor: `agent:${row.id}`,
    action: "agent.paired",
    subject: `agent:${row.id}`,
    details: { pairing_code: code.id, epoch: String(row.epoch), key_thumbprint: o.thumbprint },
  });
  announceAgent(tx, row, o.context);
  return { row, evicts: before !== undefined };
}

async function pairedBefore(tx: Tx, code: CodeRow, thumbprint: string): Promise<Done | undefined> {
  if (code.used_by !== thumbprint) return undefined;
  const row = await findAgent(tx, code.tenant_id, code.agent_id);
  const stands = row?.epoch === code.used_epoch && row.revoked_at === null;
  return row === undefined || !stands ? undefined : { row, evicts: false };
}
