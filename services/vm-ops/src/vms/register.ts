import type { VmView } from "@muster/contracts/commands";
import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import { vmRegistered, vmRegistration } from "@muster/contracts/vm-ops";
import type { vmOpsRequests } from "@muster/contracts/vm-ops";
import { prepareEvent } from "@muster/broker/prepare";
import type { RequestContext } from "@muster/broker/broker";
import type { Database, Tx } from "@muster/database/database";
import { callerOf } from "../caller.ts";
import { canonicalJson } from "../commands/canonical-json.ts";
import { storable } from "../text.ts";
import type { VmQueues } from "./queues.ts";
import { findVm, findVmByKey, insertVm } from "./store.ts";
import type { VmRow } from "./store.ts";

type Contract = typeof vmOpsRequests.registerVm;
type Registration = PayloadOf<Contract>["vm"];

export interface RegisterParts {
  readonly database: Pick<Database, "transaction">;
  readonly queues: Pick<VmQueues, "makeNow">;
}

/** Writes the VM down and makes its queue. Throws VM_ALREADY_REGISTERED, IDEMPOTENCY_KEY_REUSED. */
export async function registerVm(
  parts: RegisterParts,
  { vm, idempotency_key: key }: PayloadOf<Contract>,
  context: RequestContext,
): Promise<ReplyInputOf<Contract>> {
  const { tenant_id: tenantId } = callerOf(context, "admin");
  const answer = await parts.database.transaction({ tenants: [tenantId] }, (tx) =>
    register(tx, tenantId, vm, key, context),
  );
  // A failure here is mended by the reconciler; the first doorbell waits in the outbox until then.
  if (!answer.replayed) await parts.queues.makeNow(tenantId, answer.vm.vm_uuid);
  return answer;
}

async function register(
  tx: Tx,
  tenantId: string,
  vm: Registration,
  key: string | undefined,
  context: RequestContext,
): Promise<{ vm: VmView; replayed: boolean }> {
  const known = key === undefined ? undefined : await findVmByKey(tx, tenantId, key);
  if (known !== undefined) return { vm: firstAnswer(known, vm), replayed: true };
  const vmUuid = vm.vm_uuid ?? uuidv7();
  const name = storable(vm.name);
  const { labels, concurrency } = vm;
  const fresh = {
    tenantId,
    vmUuid,
    name,
    labels,
    concurrency,
    key: key ?? null,
    requested: canonicalJson(vm),
  };
  if (!(await insertVm(tx, fresh))) {
    const quicker = key === undefined ? undefined : await findVmByKey(tx, tenantId, key);
    if (quicker !== undefined) return { vm: firstAnswer(quicker, vm), replayed: true };
    throw new MusterError("VM_ALREADY_REGISTERED");
  }
  const row = await findVm(tx, tenantId, vmUuid);
  if (row === undefined) throw new Error("a VM that was just registered cannot be read");
  const at = row.registered_at.toISOString();
  tx.publish(
    prepareEvent(vmRegistered, { vm_uuid: vmUuid, name, labels, at }, { context, tenantId, subject: vmUuid }),
  );
  return { vm: firstAnswerOf(row, vmRegistration.parse(JSON.parse(row.requested))), replayed: false };
}

/** Throws IDEMPOTENCY_KEY_REUSED naming what differs. */
function firstAnswer(row: VmRow, second: Registration): VmView {
  const first = vmRegistration.parse(JSON.parse(row.requested));
  const fields = ["vm_uuid", "name", "labels", "concurrency"] as const;
  const differing = fields.filter(
    (name) => canonicalJson(first[name] ?? null) !== canonicalJson(second[name] ?? null),
  );
  if (differing.length > 0) {
    throw new MusterError("IDEMPOTENCY_KEY_REUSED", undefined, {
      details: differing.map((path) => ({ path, message: "differs from the first request under this key" })),
    });
  }
  return firstAnswerOf(row, first);
}

/** As it was answered the first time, whatever has become of the VM since. */
function firstAnswerOf(row: VmRow, requested: Registration): VmView {
  return {
    vm_uuid: row.vm_uuid,
    name: storable(requested.name),
    labels: requested.labels,
    state: "active",
    epoch: 1,
    concurrency: requested.concurrency,
    agent: null,
    registered_at: row.registered_at.toISOString(),
    retired_at: null,
  };
}
