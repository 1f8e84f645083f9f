import { MusterError } from "@muster/contracts/errors";
import type { Model } from "../model/model.ts";
import type { Order } from "../model/orders.ts";
import { seededRandom, type Random } from "./random.ts";

/** Work that goes on while faults come. */
export interface Load {
  /** Answers that no client should get, each in words. */
  readonly complaints: readonly string[];
  /** Asks for nothing new; resolves when everything asked has its answer. */
  stop(): Promise<void>;
}

interface Plan {
  readonly order: Order;
  /** Cancelled so long after its acceptance. */
  readonly cancelAfterMs?: number;
  /** The same request is sent again so long after the first answer. */
  readonly repeatAfterMs?: number;
}

const everyMs = 400;
/** Orders without an answer; while the system is away no more are made. */
const unansweredMax = 16;

export function startLoad(o: { model: Model; vmUuids: readonly string[]; seed: number }): Load {
  const random = seededRandom(o.seed ^ 0x5eed);
  const complaints: string[] = [];
  const underWay = new Set<Promise<void>>();
  const stopping = new AbortController();

  async function carry({ order, cancelAfterMs, repeatAfterMs }: Plan): Promise<void> {
    const entry = await o.model.accept(order);
    if (entry.id === undefined) return;
    if (repeatAfterMs !== undefined) {
      await pause(repeatAfterMs);
      await o.model.repeat(entry);
    }
    if (cancelAfterMs !== undefined) {
      await pause(cancelAfterMs);
      await o.model.cancel(entry);
    }
  }

  async function run(): Promise<void> {
    while (!stopping.signal.aborted) {
      const plan = planOf(random, random.pick(o.vmUuids));
      if (underWay.size < unansweredMax) {
        const one = carry(plan).catch((error: unknown) => {
          // No answer in a minute of retries: what was asked may have been done or not, and both are right.
          if (error instanceof MusterError && error.retriable) return;
          complaints.push(error instanceof Error ? error.message : String(error));
        });
        underWay.add(one);
        void one.then(() => underWay.delete(one));
      }
      await pause(random.between(everyMs / 2, (everyMs * 3) / 2));
    }
  }
  const running = run();
  return {
    complaints,
    async stop() {
      stopping.abort();
      await running;
      await Promise.all(underWay);
    },
  };
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

function planOf(random: Random, vmUuid: string): Plan {
  const kind = random.next();
  const bytes = Math.floor(random.between(0, 40_000) * random.next());
  const seconds = Math.round(random.between(1, 6));
  if (kind < 0.4) return { order: { vmUuid, stdoutBytes: bytes } };
  if (kind < 0.6) {
    const exitCode = random.pick([0, 3, 42]);
    return { order: { vmUuid, action: "script", stdoutBytes: bytes, stderrBytes: 300, exitCode } };
  }
  if (kind < 0.72) return { order: { vmUuid, stdoutBytes: bytes, seconds } };
  if (kind < 0.82) {
    return { order: { vmUuid, stdoutBytes: 10, seconds: 15 }, cancelAfterMs: random.between(0, 4_000) };
  }
  if (kind < 0.89) return { order: { vmUuid, stdoutBytes: 50, expiresInSeconds: seconds } };
  if (kind < 0.94) return { order: { vmUuid, stderrBytes: 5, seconds: 30, timeoutSeconds: 1 } };
  return { order: { vmUuid, stdoutBytes: bytes }, repeatAfterMs: random.between(0, 3_000) };
}
