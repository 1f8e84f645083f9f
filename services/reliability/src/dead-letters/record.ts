import type { Broker, Consumer, RawDelivery } from "@muster/broker/broker";
import { Lane } from "@muster/broker/lanes";
import { prepareEvent } from "@muster/broker/prepare";
import { fullJitterMs, pause } from "@muster/broker/waiting";
import { deadLetterRecorded } from "@muster/contracts/reliability";
import { correlationId } from "@muster/contracts/envelope";
import type { Database, Tx } from "@muster/database/database";
import { faultKind } from "@muster/database/faults";
import type { Logger } from "@muster/telemetry/logger";
import type { DeadLetterAlarm } from "./alarm.ts";
import { readDeath } from "./read-death.ts";
import type { Death } from "./read-death.ts";
import { insertDeaths } from "./store.ts";
import type { RecordedRow } from "./store.ts";

export interface RecorderOptions {
  readonly broker: Pick<Broker, "consume">;
  readonly database: Database;
  readonly queues: readonly string[];
  readonly dispatchMaxRequeues: number;
  readonly alarm: DeadLetterAlarm;
  readonly logger: Logger;
}

export interface Recorder {
  readonly consumers: readonly Consumer[];
  close(): Promise<void>;
}

/** Bodies are up to 8 MiB: this bounds what is in memory at once. */
const prefetch = 10;
const batch = { sizeMax: prefetch, waitMs: 10, concurrency: 1 };
const backoff = { baseMs: 200, maxMs: 10_000 };

/** Consumes the dead-letter queues into the table. A delivery is acknowledged when its row is committed, never before. */
export async function openRecorder(o: RecorderOptions): Promise<Recorder> {
  const stopping = new AbortController();
  const consumers: Consumer[] = [];
  const lanes: Lane<RawDelivery>[] = [];
  for (const queue of o.queues) {
    const lane = new Lane<RawDelivery>(
      batch,
      (deliveries) => recordUntilDone(o, deliveries, stopping.signal),
      (error) => o.logger.error({ err: error, queue }, "dead letters could not be handled"),
    );
    lanes.push(lane);
    consumers.push(await o.broker.consume(queue, { prefetch }, (delivery) => lane.push(delivery)));
  }
  return {
    consumers,
    async close() {
      stopping.abort();
      for (const lane of lanes) for (const delivery of lane.takeUnstarted()) delivery.nackNotAttempted();
      await Promise.all(consumers.map((consumer) => consumer.close()));
    },
  };
}

/** Tries for as long as the deliveries are ours: the queues hold what is behind them meanwhile. */
async function recordUntilDone(
  o: RecorderOptions,
  deliveries: readonly RawDelivery[],
  stopping: AbortSignal,
): Promise<void> {
  let left = deliveries;
  for (let tries = 0; left.length > 0; tries++) {
    left = (await recordWhatFits(o, left)).filter((delivery) => !delivery.settled);
    if (left.length === 0) return;
    if (stopping.aborted) return left.forEach((delivery) => delivery.nackNotAttempted());
    await pause(fullJitterMs(tries, backoff.baseMs, backoff.maxMs), stopping);
  }
}

/** Records all at once; when the data of one spoils it, each alone, and that one without what PostgreSQL refuses. */
async function recordWhatFits(
  o: RecorderOptions,
  deliveries: readonly RawDelivery[],
): Promise<readonly RawDelivery[]> {
  const deaths = deliveries.map(readDeath);
  try {
    await recordDeaths(o, deaths);
    for (const delivery of deliveries) delivery.ack();
    return [];
  } catch (error) {
    const spoilt = faultKind(error) === "other" && !isPassing(error);
    o.logger.warn(
      { err: error, size: deliveries.length },
      "dead letters could not be recorded; trying again",
    );
    if (!spoilt) return deliveries;
  }
  const left: RawDelivery[] = [];
  for (const delivery of deliveries) {
    try {
      await recordDeaths(o, [readDeath(delivery)]).catch(() => recordDeaths(o, [bare(readDeath(delivery))]));
      delivery.ack();
    } catch {
      left.push(delivery);
    }
  }
  return left;
}

function isPassing(error: unknown): boolean {
  return error instanceof Error && Reflect.get(error, "retriable") === true;
}

function bare(death: Death): Death {
  const note = "its headers could not be stored";
  return { ...death, headers: {}, history: [], lastError: note, correlationId: null, type: "" };
}

/** Rows, audit and events in one transaction. */
export async function recordDeaths(
  o: Pick<RecorderOptions, "database" | "dispatchMaxRequeues" | "alarm">,
  deaths: readonly Death[],
): Promise<void> {
  const unique = [...new Map(deaths.map((death) => [death.key, death])).values()];
  const byKey = new Map(unique.map((death) => [death.key, death]));
  const recorded = await o.database.transaction("system", async (tx) => {
    const rows = await insertDeaths(tx, unique);
    return rows.flatMap((row) => {
      const death = byKey.get(row.death_key);
      if (death === undefined) return [];
      announce(tx, row, death, o.dispatchMaxRequeues);
      return [death];
    });
  });
  for (const death of recorded) o.alarm.recorded(death.queue, death.reason, death.type);
}

function announce(tx: Tx, row: RecordedRow, death: Death, dispatchMaxRequeues: number): void {
  const given = correlationId.safeParse(death.correlationId);
  tx.publish(
    prepareEvent(
      deadLetterRecorded,
      {
        dead_letter_id: row.id,
        tenant_id: death.tenantId,
        queue: death.queue,
        reason: death.reason,
        type: death.type,
        message_id: death.messageId,
        command: death.command,
        dispatch_max_requeues: dispatchMaxRequeues,
        at: row.died_at.toISOString(),
      },
      {
        context: { correlationId: given.success ? given.data : row.id },
        orderingKey: row.id,
        ...(death.tenantId === null ? {} : { tenantId: death.tenantId }),
      },
    ),
  );
}
