import { brokerAudience, brokerTokenType, queueScopes, reportScope } from "@muster/contracts/broker-tokens";
import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import type { pairingRequests } from "@muster/contracts/pairing";
import { accessTokenIssuer } from "@muster/contracts/principal";
import { agentLoginName } from "@muster/contracts/senders";
import type { Database, Tx } from "@muster/database/database";
import type { Logger } from "@muster/telemetry/logger";
import { SignJWT } from "jose";
import type { Limits, Outcome } from "../limits/limits.ts";
import type { SigningKey } from "../signing/key-pair.ts";
import type { SigningKeys } from "../signing/open-signing.ts";
import { agentNamed, ProofRefused, verifyAssertion } from "./proof.ts";
import { lockPaired, markTokens, useAssertion } from "./store.ts";
import type { AgentRow } from "./store.ts";

type Contract = (typeof pairingRequests)["issueAgentTokens"];
type Asked = PayloadOf<Contract>;

export interface IssueDeps {
  readonly database: Pick<Database, "transaction">;
  readonly limits: Pick<Limits, "count">;
  readonly contract: Contract;
  /** The broker's own keys: what verifies its tokens verifies nothing else. */
  readonly signing: Pick<SigningKeys, "activeKid" | "keyOf">;
  readonly tokenTtlSeconds: number;
  /** Where agents reach the broker; null: their own settings say it. */
  readonly brokerUrl: string | null;
  /** The virtual host that their queues are in. */
  readonly vhost: string;
  readonly logger: Logger;
  /** Milliseconds since 1970. */
  readonly now: () => number;
}

/** How far clocks may be apart: when a token has expired for everybody. */
const skewSeconds = 30;

/**
 * The broker's tokens for an assertion by the key that an agent was paired with. Unknown and revoked agents, keys of earlier
 * pairings, and assertions that were used get the same answer. Throws INVALID_GRANT, RATE_LIMITED.
 */
export async function issueAgentTokens(deps: IssueDeps, asked: Asked): Promise<ReplyInputOf<Contract>> {
  const { database, limits, contract, signing, tokenTtlSeconds, logger } = deps;
  const atMs = deps.now();
  const named = agentNamed(asked.assertion);
  const given = await database.transaction("system", async (tx) => {
    const row = named === undefined ? undefined : await lockPaired(tx, named);
    const refused = await assertionFault(tx, row, asked.assertion, atMs);
    const [limited] = await limits.count(tx, contract, [outcomeOf(asked, named, row, refused)]);
    // Answered and not thrown: what was counted is kept, and an assertion stays used.
    if (limited !== undefined) return limited;
    if (row === undefined || refused !== undefined) {
      logger.info({ agent_id: named, err: refused }, "an agent's assertion was refused");
      return new MusterError("INVALID_GRANT");
    }
    await markTokens(tx, row.id, tokenTtlSeconds + skewSeconds);
    return { row, kid: await signing.activeKid(tx) };
  });
  if (given instanceof MusterError) throw given;
  const { row } = given;
  const key = await signing.keyOf(given.kid);
  const where = { vhost: deps.vhost, tenantId: row.tenant_id, agentId: row.id };
  const base = [reportScope(where)];
  const sign = (scope: readonly string[]) => tokenOf(row, key, { scope, atMs, tokenTtlSeconds });
  return {
    tenant_id: row.tenant_id,
    agent_id: row.id,
    epoch: row.epoch,
    vm_uuids: row.vm_uuids,
    login_token: await sign(base),
    access_token: await sign([...base, ...queueScopes(where, row.vm_uuids)]),
    expires_in_seconds: tokenTtlSeconds,
    broker_url: deps.brokerUrl,
  };
}

async function assertionFault(
  tx: Tx,
  row: AgentRow | undefined,
  assertion: string,
  nowMs: number,
): Promise<ProofRefused | undefined> {
  if (row === undefined) return new ProofRefused("no agent that is paired has this id");
  try {
    const read = await verifyAssertion(assertion, { x: row.public_key, nowMs });
    return (await useAssertion(tx, row, read)) ? undefined : new ProofRefused("it was used before");
  } catch (error) {
    if (error instanceof ProofRefused) return error;
    throw error;
  }
}

function outcomeOf(
  { client_address: address }: Asked,
  named: string | undefined,
  row: AgentRow | undefined,
  refused: ProofRefused | undefined,
): Outcome {
  const who = row === undefined ? undefined : { tenantId: row.tenant_id, subject: `agent:${row.id}` };
  if (who !== undefined && refused === undefined) return { address, failed: false, who };
  return {
    ...{ address, failed: true },
    credentials: named === undefined ? [] : [{ name: `agent:${named}`, concerns: who }],
  };
}

function tokenOf(
  row: AgentRow,
  key: SigningKey,
  o: { readonly scope: readonly string[]; readonly atMs: number; readonly tokenTtlSeconds: number },
): Promise<string> {
  const nowSeconds = Math.floor(o.atMs / 1_000);
  return new SignJWT({ scope: o.scope })
    .setProtectedHeader({ alg: key.alg, kid: key.kid, typ: brokerTokenType })
    .setIssuer(accessTokenIssuer)
    .setAudience(brokerAudience)
    .setSubject(agentLoginName(row.id, { epoch: row.epoch }))
    .setJti(uuidv7())
    .setIssuedAt(nowSeconds)
    .setExpirationTime(nowSeconds + o.tokenTtlSeconds)
    .sign(key.privateKey);
}
