import type { Database } from "@muster/database/database";
import type { Logger } from "@muster/telemetry/logger";
import { prunePairing } from "../agents/store.ts";
import { pruneLimits } from "../limits/store.ts";
import { pruneMeshKeys } from "../mesh-keys/register.ts";
import { pruneRevocations } from "../revocations/store.ts";
import { pruneFamilies } from "./store.ts";

const limit = 1_000;
const roundsMax = 20;

/**
 * Forgets refresh tokens whose family has ended, what was counted long ago, keys whose process is gone, and revocations that no
 * token outlives, some at a time; any number of replicas share the work.
 */
export function openTokenPruner(o: {
  database: Pick<Database, "transaction">;
  logger: Logger;
  everyMs: number;
}): {
  close(): Promise<void>;
} {
  let closed = false;
  async function prune(): Promise<void> {
    for (const some of [pruneLimits, pruneFamilies, pruneMeshKeys, pruneRevocations, prunePairing]) {
      for (let round = 0; round < roundsMax && !closed; round++) {
        if ((await o.database.transaction("system", (tx) => some(tx, limit))) < limit) break;
      }
    }
  }
  let running = Promise.resolve();
  const timer = setInterval(() => {
    running = running.then(prune).catch((error: unknown) => {
      o.logger.debug({ err: error }, "what has ended could not be forgotten");
    });
  }, o.everyMs);
  timer.unref();
  return {
    async close() {
      closed = true;
      clearInterval(timer);
      await running;
    },
  };
}
