import { setTimeout as delay } from "node:timers/promises";
import type { Server } from "../servers/server.ts";
import type { Servers } from "../servers/servers.ts";
import { openBackoff } from "./backoff.ts";

/** Starts a private broker or database again, on the same data and ports, whenever it ends by itself. */
export function keepServersUp(servers: Servers, log: (line: string) => void, signal: AbortSignal): void {
  const keepUp = (name: string, server: Server): void => {
    const backoff = openBackoff();
    let startedAt = Date.now();
    const startAgain = async (): Promise<void> => {
      for (;;) {
        const pauseMs = backoff.pauseAfter(Date.now() - startedAt);
        log(`${name} ended; starting it again in ${pauseMs} ms`);
        await delay(pauseMs, undefined, { signal });
        startedAt = Date.now();
        try {
          await server.start();
          log(`${name} is up again`);
          return;
        } catch (error) {
          signal.throwIfAborted();
          log(error instanceof Error ? error.message : String(error));
          await server.stop();
        }
      }
    };
    server.onDeath(() => {
      // Rejects only when the whole system stops meanwhile.
      if (!signal.aborted) startAgain().catch(() => undefined);
    });
  };
  keepUp("RabbitMQ", servers.broker);
  keepUp("PostgreSQL", servers.database);
}
