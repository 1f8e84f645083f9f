import type { Broker, ReportItem } from "@muster/broker/broker";
import type { ReplyInputOf } from "@muster/contracts/define";
import type { WorkContext } from "@muster/contracts/envelope";
import { MusterError } from "@muster/contracts/errors";
import { tenantId as tenantIdSchema, uuid } from "@muster/contracts/ids";
import { sealedFor } from "@muster/contracts/secrets";
import type { agentResolve, ResolvedSecrets } from "@muster/contracts/secret-reports";
import type { Material } from "@muster/contracts/secrets";
import { vmOpsRequests } from "@muster/contracts/vm-ops";
import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import { askVault } from "../asking-vault.ts";
import type { SecretParts } from "../secrets/keep.ts";
import { sealTo } from "../transport/boxes.ts";
import type { AgentKeys } from "./agent-keys.ts";
import { grant } from "./grant.ts";
import type { Granted, Wanted } from "./grant.ts";
import { isProven } from "./proof.ts";
import type { Given } from "./store.ts";

type Item = ReportItem<typeof agentResolve>;
type Reply = ReplyInputOf<typeof agentResolve>;

export interface ResolveParts extends Pick<SecretParts, "database" | "vault"> {
  readonly broker: Pick<Broker, "request">;
  readonly agentKeys: Pick<AgentKeys, "keyOf">;
  readonly leaseMaxMs: number;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

const vmOpsTimeoutMs = 4_000;

/** Answers agents that ask for the secrets of what they run; each answer is for one agent, one attempt, and sealed to it. */
export function resolving(parts: ResolveParts) {
  const resolved = parts.metrics.counter({
    name: "muster_secrets_resolves_total",
    help: "Agents' questions for secrets, by what they were answered with",
    labels: ["outcome"],
  });
  const answer = async (item: Item): Promise<Reply | MusterError> => {
    try {
      const reply = await resolve(parts, item);
      resolved.inc({ outcome: "given" });
      return reply;
    } catch (error) {
      const code = error instanceof MusterError ? error.code : "INTERNAL";
      resolved.inc({ outcome: code });
      const { agentId: agent, tenantId: tenant } = item.context;
      const { command_id: command, attempt } = item.payload;
      parts.logger.warn({ err: error, agent, tenant, command, attempt }, "an agent was not given secrets");
      if (error instanceof MusterError) return error;
      throw error;
    }
  };
  return (items: readonly Item[]): Promise<readonly (Reply | MusterError)[]> =>
    Promise.all(items.map(answer));
}

async function resolve(parts: ResolveParts, { payload, context }: Item): Promise<Reply> {
  const { tenantId, agentId, epoch, remainingMs } = context;
  if (!tenantIdSchema.safeParse(tenantId).success || !uuid.safeParse(agentId).success)
    throw new MusterError("FORBIDDEN");
  const startedMs = performance.now();
  const { command_id: commandId, attempt, nonce, x } = payload;
  const { correlationId, causationId, traceparent } = context;
  const asking: WorkContext = { correlationId, causationId, traceparent };
  const asked = { tenant: tenantId, agentId, commandId, attempt, nonce, x };
  const publicKey = await parts.agentKeys.keyOf({ tenantId, agentId, epoch }, asking);
  if (!isProven(payload.proof, { publicKey, asked })) throw new MusterError("AGENT_KEY_UNKNOWN");
  const about = sealedFor.attempt(asked);
  // A key that nothing can be sealed to uses up no attempt.
  await sealTo(x, about, []);
  const wanted = await wantedBy(parts, { payload, context }, asking);
  const granted = await parts.database.transaction({ tenants: [tenantId] }, (tx) =>
    grant(tx, wanted, asking),
  );
  const grantedMs = performance.now();
  const leftMs = remainingMs - (grantedMs - startedMs);
  const secrets = await readAll(parts, tenantId, granted, leftMs);
  const sealed = await sealTo(x, about, secrets);
  const spentMs = Math.ceil(performance.now() - grantedMs);
  return { lease_ms: Math.max(1, granted.leaseMs - spentMs), sealed };
}

/** What vm-ops says of the attempt. Throws ATTEMPT_NOT_RUNNING, also for what its command does not name. */
async function wantedBy(
  parts: ResolveParts,
  { payload, context }: Item,
  asking: WorkContext,
): Promise<Wanted> {
  const { command_id: commandId, attempt, token, nonce, x: recipient, references } = payload;
  const { tenantId, agentId } = context;
  const found = await parts.broker.request(
    vmOpsRequests.getAttempt,
    { tenant_id: tenantId, agent_id: agentId, command_id: commandId, attempt, token },
    asking,
    { timeoutMs: vmOpsTimeoutMs },
  );
  const named = new Set(found.references);
  if (!references.every((reference) => named.has(reference))) throw new MusterError("ATTEMPT_NOT_RUNNING");
  const { vm_uuid: vmUuid, vm_labels: labels, project_id: projectId, left_ms } = found;
  return {
    whom: { tenantId, vmUuid, labels, projectId },
    ...{ agentId, commandId, attempt, nonce, recipient },
    references: [...new Set(references)],
    leaseMs: Math.min(left_ms, parts.leaseMaxMs),
  };
}

/** Each version once, in the order of the references. Throws VAULT_…, SECRET_VERSION_NOT_FOUND. */
async function readAll(
  { vault }: ResolveParts,
  tenantId: string,
  { given }: Granted,
  remainingMs: number,
): Promise<ResolvedSecrets> {
  const keyOf = ({ secret_id, version }: Given): string => `${secret_id}@${version}`;
  const places = new Map(
    given.map((one) => [keyOf(one), { tenantId, secretId: one.secret_id, version: one.version }]),
  );
  const read = await askVault({ remainingMs, missing: "SECRET_VERSION_NOT_FOUND" }, (signal) =>
    Promise.all([...places].map(async ([key, place]) => [key, await vault.read(place, signal)] as const)),
  );
  const materials = new Map<string, Material>(read);
  return given.map((one) => {
    const value = materials.get(keyOf(one))?.[one.field];
    if (value === undefined) throw new MusterError("SECRET_FIELD_NOT_FOUND");
    return { reference: one.reference, version: one.version, value, as: one.as };
  });
}
