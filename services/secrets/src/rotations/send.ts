import type { Broker } from "@muster/broker/broker";
import type { WorkContext } from "@muster/contracts/envelope";
import { MusterError } from "@muster/contracts/errors";
import { followUp } from "@muster/contracts/rotations";
import { vmOpsRequests } from "@muster/contracts/vm-ops";
import type { Database, Tx } from "@muster/database/database";
import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import { isRefusal, sendAgainAfterMs } from "./decide.ts";
import { settle } from "./settle.ts";
import { markAsked, markEnded, markGivenUp, markSent, postponeFollowUp, takeDue } from "./store.ts";
import type { DueRow, FollowUpKey } from "./store.ts";

export interface FollowUps {
  /** There may be some to be sent. */
  wake(): void;
  /** Sends those that are due, and asks after those that were not heard of; resolves when that is done. */
  look(): Promise<{ readonly due: number; readonly more: boolean }>;
  close(): Promise<void>;
}

export interface FollowUpsOptions {
  readonly database: Pick<Database, "transaction">;
  readonly broker: Pick<Broker, "request">;
  /** One that was sent and not heard of for so long is asked after: its end may have been told before it was known. */
  readonly recheckMs: number;
  readonly everyMs: number;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

const perLook = 16;
const askTimeoutMs = 8_000;
/** Whoever takes one has done with it by then, or has died. */
const leaseMs = 30_000;

/**
 * Sends what rotations have written down, by a key of its own each: sent twice is once, and whoever dies between any two steps
 * leaves a row that comes up again.
 */
export function openFollowUps(o: FollowUpsOptions): FollowUps {
  const sent = o.metrics.counter({
    name: "muster_secrets_follow_ups_total",
    help: "Follow-ups of rotations, by what became of sending them",
    labels: ["outcome"],
  });
  const lookOnce = async () => {
    const rows = await o.database.transaction("system", (tx) => takeDue(tx, { limit: perLook, leaseMs }));
    const done = await Promise.allSettled(
      rows.map((row) => carryOut(o, row, (outcome) => sent.inc({ outcome }))),
    );
    const failure = done.find((one) => one.status === "rejected");
    if (failure !== undefined) throw failure.reason;
    return { due: rows.length, more: rows.length === perLook };
  };
  let running: Promise<unknown> = Promise.resolve();
  let stopped = false;
  /** One after the other: what was committed before the call is seen by it. */
  const look: FollowUps["look"] = () => {
    const looked = running.then(lookOnce);
    running = looked.catch(() => undefined);
    return looked;
  };
  let woken = false;
  const wake = (): void => {
    if (stopped || woken) return;
    woken = true;
    const start = () => {
      woken = false;
      return stopped ? Promise.resolve({ due: 0, more: false }) : lookOnce();
    };
    running = running
      .then(start)
      .then(({ more }) => {
        if (more) wake();
      })
      .catch((error: unknown) => {
        o.logger.warn({ err: error }, "follow-ups of rotations could not be sent; tried again");
      });
  };
  const timer = setInterval(wake, o.everyMs);
  timer.unref();
  wake();
  return {
    wake,
    look,
    async close() {
      stopped = true;
      clearInterval(timer);
      await running;
    },
  };
}

type Count = (outcome: string) => void;

async function carryOut(o: FollowUpsOptions, row: DueRow, count: Count): Promise<void> {
  const { tenant_id: tenantId, rotation_id: rotationId, secret_id: secretId } = row;
  const key = { tenantId, rotationId, secretId, bindingId: row.binding_id, round: row.round };
  const write = <T>(work: (tx: Tx) => Promise<T>) => o.database.transaction({ tenants: [tenantId] }, work);
  if (row.state === "pending") {
    // A rotation that was superseded meanwhile sends nothing more.
    const isWanted = await write(async (tx) => {
      await settle(tx, key);
      return await markAsked(tx, key);
    });
    if (!isWanted) return;
  }
  try {
    const { command, ended } = await ask(o, row);
    await write((tx) =>
      settle(tx, key, async () => {
        await markSent(tx, key, { commandId: command.id, recheckMs: o.recheckMs });
        if (ended === null) return;
        const { state, ...end } = ended;
        await markEnded(tx, {
          ...{ tenantId, commandId: command.id, succeeded: state === "succeeded" },
          ...end,
        });
      }),
    );
    if (row.state === "pending") count("sent");
  } catch (error) {
    const code = await refused(o, { row, key, error });
    count(code);
  }
}

async function refused(
  o: FollowUpsOptions,
  { row, key, error }: { row: DueRow; key: FollowUpKey & { secretId: string }; error: unknown },
): Promise<string> {
  const code = error instanceof MusterError ? error.code : "INTERNAL";
  const isRefused = isRefusal(code);
  const { rotationId: rotation, tenantId: tenant, bindingId: binding } = key;
  o.logger.warn({ err: error, tenant, rotation, binding }, "a follow-up could not be sent");
  const againMs =
    row.state === "running" ? o.recheckMs : sendAgainAfterMs({ code, tries: row.tries, ageMs: row.age_ms });
  await o.database.transaction({ tenants: [tenant] }, (tx) =>
    againMs === undefined
      ? settle(tx, key, () => markGivenUp(tx, key, { code, isRefused }))
      : postponeFollowUp(tx, key, { ms: againMs, isRefused }),
  );
  return code;
}

async function ask({ broker }: FollowUpsOptions, row: DueRow) {
  const { rotation_id, binding_id, round, tenant_id, requested_by, correlation_id, traceparent } = row;
  const { action, params, timeout_seconds } = followUp.parse(row.command);
  const context: WorkContext = {
    correlationId: correlation_id,
    ...(traceparent === null ? {} : { traceparent }),
  };
  return await broker.request(
    vmOpsRequests.acceptFollowUp,
    {
      ...{ tenant_id, requested_by },
      command: { vm_uuid: row.vm_uuid, action, params, timeout_seconds },
      idempotency_key: `rotation:${rotation_id}:${binding_id}:${round}`,
    },
    context,
    { timeoutMs: askTimeoutMs },
  );
}
