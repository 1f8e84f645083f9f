import { agentLoginName } from "@muster/contracts/senders";
import type { Database, Tx } from "@muster/database/database";
import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import { z } from "zod";
import type { AgentRow } from "./store.ts";

/** What the broker is asked to do about logins; each is harmless when done again. */
export interface BrokerGuard {
  /** Refuses every login by this name, whatever its token says. */
  block(login: string): Promise<void>;
  unblock(login: string): Promise<void>;
  /** Ends its connections, and with them its consumers. */
  closeConnections(login: string, reason: string): Promise<void>;
  /** Names of agents' logins that have a connection now by a token, some at a time. */
  connectedByToken(): AsyncIterable<readonly string[]>;
}

export interface Evictions {
  /** There is one to be carried out. */
  wake(): void;
  close(): Promise<void>;
}

const evictionRow = z.object({ login: z.string() });
const perLook = 100;
/** A login that never got a token may have been given a password, or be getting its first token now. */
const leastSeconds = 60;

/**
 * Writes down that this pairing's login has no business at the broker any more; carried out after the commit. `agent`: as it was,
 * with the end of its last token.
 */
export async function evict(
  tx: Tx,
  agent: Pick<AgentRow, "id" | "tenant_id" | "epoch" | "token_until">,
): Promise<void> {
  await tx.query(
    `INSERT INTO broker_evictions (login, tenant_id, until)
     VALUES ($1, $2, greatest($3::timestamptz, clock_timestamp() + $4 * interval '1 second'))
     ON CONFLICT (login) DO NOTHING`,
    [
      ...[agentLoginName(agent.id, { epoch: agent.epoch }), agent.tenant_id],
      ...[agent.token_until, leastSeconds],
    ],
  );
}

/**
 * Carries out what was written down, however often this process or the broker was away meanwhile, and closes the connections
 * of agents whose last token has expired: RabbitMQ asks for a token when a consumer begins and never again. Any number of
 * replicas do it; each step is harmless when done twice.
 */
export function openEvictions(o: {
  readonly database: Pick<Database, "transaction">;
  readonly guard: BrokerGuard;
  readonly everyMs: number;
  readonly sweepMs: number;
  readonly logger: Logger;
  readonly metrics: Metrics;
}): Evictions {
  const closed = o.metrics.counter({
    name: "muster_auth_agent_connections_closed_total",
    help: "Logins of agents whose connections were closed at the broker.",
    labels: ["reason"],
  });
  const seconds = o.metrics.histogram({
    name: "muster_auth_agent_eviction_seconds",
    help: "From a revocation's commit until the broker has closed the agent's connections.",
    buckets: [0.01, 0.05, 0.1, 0.5, 1, 5, 30, 300],
  });
  let sweptMs = -Infinity;
  let failing = false;

  async function look(): Promise<void> {
    await carryOut(o, (ageSeconds) => {
      closed.inc({ reason: "revoked" });
      seconds.observe(ageSeconds);
    });
    await letGo(o);
    if (performance.now() - sweptMs < o.sweepMs) return;
    await closeExpired(o, () => closed.inc({ reason: "expired" }));
    sweptMs = performance.now();
  }
  return repeating(o.everyMs, async () => {
    try {
      await look();
      failing = false;
    } catch (error) {
      o.logger[failing ? "debug" : "warn"](
        { err: error },
        "agents' logins could not be looked after; tried again",
      );
      failing = true;
    }
  });
}

type Parts = Pick<Parameters<typeof openEvictions>[0], "database" | "guard" | "logger">;

async function carryOut(
  { database, guard, logger }: Parts,
  done: (ageSeconds: number) => void,
): Promise<void> {
  const rows = await database.transaction(
    "system",
    (tx) =>
      tx.query("SELECT login FROM broker_evictions WHERE closed_at IS NULL ORDER BY asked_at LIMIT $1", [
        perLook,
      ]),
    { readOnly: true },
  );
  await eachOf(rows, async (login) => {
    // In this order: whoever logs in between the two is closed too.
    await guard.block(login);
    await guard.closeConnections(login, "revoked");
    const [marked] = await database.transaction("system", (tx) =>
      tx.query<{ age: number }>(
        `UPDATE broker_evictions SET closed_at = clock_timestamp() WHERE login = $1 AND closed_at IS NULL
         RETURNING extract(epoch FROM clock_timestamp() - asked_at)::float8 AS age`,
        [login],
      ),
    );
    if (marked === undefined) return;
    logger.info({ login, seconds: marked.age }, "an agent's connections were closed at the broker");
    done(marked.age);
  });
}

/** One that fails holds up no other; the first failure is thrown when all were tried. */
async function eachOf(rows: readonly unknown[], work: (login: string) => Promise<void>): Promise<void> {
  const failures: unknown[] = [];
  for (const row of rows) {
    const { login } = evictionRow.parse(row);
    await work(login).catch((error: unknown) => failures.push(error));
  }
  if (failures.length > 0) throw failures[0];
}

/** Once no token of that login is alive the broker need not remember it. */
async function letGo({ database, guard }: Parts): Promise<void> {
  const rows = await database.transaction(
    "system",
    (tx) =>
      tx.query(
        `SELECT login FROM broker_evictions WHERE closed_at IS NOT NULL AND until < clock_timestamp()
          ORDER BY until LIMIT $1`,
        [perLook],
      ),
    { readOnly: true },
  );
  await eachOf(rows, async (login) => {
    await guard.unblock(login);
    await database.transaction("system", (tx) =>
      tx.query("DELETE FROM broker_evictions WHERE login = $1", [login]),
    );
  });
}

async function closeExpired({ database, guard, logger }: Parts, done: () => void): Promise<void> {
  for await (const logins of guard.connectedByToken()) {
    // Listed before they are looked up: a token that is given meanwhile is in its row by now.
    const rows = await database.transaction(
      "system",
      (tx) =>
        tx.query(
          `SELECT l.login FROM unnest($1::text[]) AS l(login)
            WHERE NOT EXISTS (SELECT 1 FROM agents a WHERE l.login = 'agent-' || a.id || '-' || a.epoch
              AND a.id = substring(l.login FROM 7 FOR 36)::uuid
              AND a.revoked_at IS NULL AND a.token_until > clock_timestamp())`,
          [[...new Set(logins)]],
        ),
      { readOnly: true },
    );
    await eachOf(rows, async (login) => {
      logger.warn({ login }, "an agent's token has expired and was not renewed; its connections are closed");
      await guard.closeConnections(login, "its token has expired");
      done();
    });
  }
}

function repeating(everyMs: number, work: () => Promise<void>): Evictions {
  let stopped = false;
  let again = false;
  let running: Promise<void> | undefined;
  const run = (): void => {
    if (stopped) return;
    if (running !== undefined) {
      again = true;
      return;
    }
    running = work().finally(() => {
      running = undefined;
      if (again) {
        again = false;
        run();
      }
    });
  };
  const timer = setInterval(run, everyMs);
  timer.unref();
  run();
  return {
    wake: run,
    async close() {
      stopped = true;
      clearInterval(timer);
      await running;
    },
  };
}
