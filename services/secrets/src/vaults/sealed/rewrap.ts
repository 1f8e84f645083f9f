import type { Database, Tx } from "@muster/database/database";
import type { Closeable } from "@muster/service/start";
import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import type { KeyEncryptionKey, Keys } from "../../keys/keys.ts";
import { rewrap } from "./envelope.ts";
import { countWrapped, lockWrapped, updateWrapped } from "./store.ts";

export interface RewrapOptions {
  readonly database: Database;
  readonly keys: Keys;
  readonly everyMs: number;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

const batchSize = 100;

/**
 * Wraps by the current key what the previous one wrapped, a batch at a time, until nothing is left; and looks again, since
 * replicas that do not know the current key yet still write by the previous one. Reads go on all the while: a row has one
 * of two keys, and both are known.
 */
export function openRewrapping(o: RewrapOptions): Closeable {
  const { keys, database, logger } = o;
  const { previous } = keys;
  const left = o.metrics.gauge({
    name: "muster_secrets_rewrap_left",
    help: "Versions in the sealed vault whose data key the previous key still wraps",
  });
  const stopping = new AbortController();
  let running: Promise<void> | undefined;

  async function round(): Promise<void> {
    if (previous === undefined) return left.set(0);
    try {
      const count = () =>
        database.transaction("system", (tx) => countWrapped(tx, previous.id), { readOnly: true });
      left.set(await count());
      let wrapped = 0;
      while (!stopping.signal.aborted) {
        const batch = await database.transaction("system", (tx) => rewrapBatch(tx, previous, keys.current));
        wrapped += batch;
        if (batch > 0) left.set(await count());
        else break;
      }
      if (wrapped > 0) logger.info({ wrapped }, "data keys were wrapped by the current key");
    } catch (error) {
      logger.warn({ err: error }, "data keys could not be wrapped anew; it is tried again");
    }
  }
  const look = (): void => {
    running ??= round().finally(() => (running = undefined));
  };
  const timer = setInterval(look, o.everyMs);
  timer.unref();
  look();
  return {
    async close() {
      clearInterval(timer);
      stopping.abort();
      await running;
    },
  };
}

/** How many. Those that another process holds are left to it. */
export async function rewrapBatch(tx: Tx, from: KeyEncryptionKey, to: KeyEncryptionKey): Promise<number> {
  const rows = await lockWrapped(tx, from.id, batchSize);
  if (rows.length === 0) return 0;
  const anew = rows.map(({ place, wrappedKey }) => ({
    place,
    wrappedKey: rewrap(wrappedKey, place, { from, to }),
  }));
  await updateWrapped(tx, to.id, anew);
  return rows.length;
}
