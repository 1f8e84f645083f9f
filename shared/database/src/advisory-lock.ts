import type { Logger } from "@muster/telemetry/logger";
import pg from "pg";

export interface AdvisoryLockOptions {
  /** As for the pool; the session is the lock's own. */
  readonly url: string;
  /** Any text; sessions of one database with the same key contend. */
  readonly key: string;
  readonly applicationName: string;
  /** How often a waiter tries, and how often the holder looks whether its session lives. Default 1 s. */
  readonly checkMs?: number;
  /** How long one look or try may take. Default 2 s. */
  readonly timeoutMs?: number;
  readonly onAcquired: () => void;
  /** The lock is gone, or may be: stop what only its holder may do. */
  readonly onLost: (reason: string) => void;
  readonly logger: Logger;
}

export interface AdvisoryLock {
  readonly held: boolean;
  /** Ends the session, and with it the lock. Does not call `onLost`. Idempotent. */
  close(): Promise<void>;
}

/**
 * The server looks after a silent client from here on: two seconds, then three probes, or data unacknowledged for
 * five. A holder that is cut off knows after `checkMs + timeoutMs` at most, before the server gives its lock away.
 */
const sessionSettings = [
  "tcp_keepalives_idle=2",
  "tcp_keepalives_interval=1",
  "tcp_keepalives_count=3",
  "tcp_user_timeout=5000",
  "idle_session_timeout=0",
]
  .map((setting) => `-c ${setting}`)
  .join(" ");

const tryLock = "SELECT pg_try_advisory_lock(hashtextextended($1, 0)) AS held";

/**
 * Contends for one session-level advisory lock for as long as it is open. Resolves at once; who holds it is told
 * by the callbacks. The lock lives in one session: when the process dies or the link is cut, it is free again.
 */
export function openAdvisoryLock(o: AdvisoryLockOptions): AdvisoryLock {
  return new Contender(o);
}

class Contender implements AdvisoryLock {
  readonly #o: AdvisoryLockOptions;
  readonly #checkMs: number;
  readonly #timeoutMs: number;
  #session: pg.Client | undefined;
  #held = false;
  #closed = false;
  #timer: NodeJS.Timeout | undefined;
  #turn: Promise<void>;

  constructor(o: AdvisoryLockOptions) {
    this.#o = o;
    this.#checkMs = o.checkMs ?? 1_000;
    this.#timeoutMs = o.timeoutMs ?? 2_000;
    this.#turn = this.#take();
  }

  get held(): boolean {
    return this.#held;
  }

  /** One look: connect if need be, try if not held, else ask the session for a sign of life. */
  async #take(): Promise<void> {
    try {
      const session = this.#session ?? (await this.#connect());
      if (this.#held) await session.query("SELECT 1");
      else {
        const { rows } = await session.query<{ held: boolean }>(tryLock, [this.#o.key]);
        if (rows[0]?.held === true && session === this.#session && !this.#closed) this.#acquired();
      }
    } catch (error) {
      this.#drop(error instanceof Error ? error.message : String(error));
    }
    if (this.#closed) return;
    this.#timer = setTimeout(() => {
      this.#turn = this.#take();
    }, this.#checkMs);
  }

  async #connect(): Promise<pg.Client> {
    const session = new pg.Client({
      connectionString: this.#o.url,
      application_name: this.#o.applicationName,
      connectionTimeoutMillis: this.#timeoutMs,
      query_timeout: this.#timeoutMs,
      statement_timeout: this.#timeoutMs,
      keepAlive: true,
      keepAliveInitialDelayMillis: 2_000,
      options: sessionSettings,
    });
    const ended = (reason: string) => {
      if (session === this.#session) this.#drop(reason);
    };
    session.on("error", (error) => ended(error.message));
    session.on("end", () => ended("the session has ended"));
    this.#session = session;
    await session.connect();
    return session;
  }

  #acquired(): void {
    this.#held = true;
    this.#o.logger.info({ key: this.#o.key }, "lock acquired");
    this.#o.onAcquired();
  }

  #drop(reason: string): void {
    const session = this.#session;
    this.#session = undefined;
    if (session !== undefined) void endOf(session);
    if (!this.#held) return;
    this.#held = false;
    this.#o.logger.warn({ key: this.#o.key, reason }, "lock lost");
    if (!this.#closed) this.#o.onLost(reason);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#timer);
    const session = this.#session;
    this.#held = false;
    this.#session = undefined;
    if (session !== undefined) await endOf(session);
    await this.#turn;
  }
}

/** A session that hangs is cut: its socket must not keep the lock. */
async function endOf(session: pg.Client): Promise<void> {
  const socket: unknown = Reflect.get(session, "connection");
  const cut = () => {
    const stream: unknown =
      typeof socket === "object" && socket !== null ? Reflect.get(socket, "stream") : undefined;
    const destroy: unknown =
      typeof stream === "object" && stream !== null ? Reflect.get(stream, "destroy") : undefined;
    if (typeof destroy === "function") destroy.call(stream);
  };
  const timer = setTimeout(cut, 1_000);
  await session.end().catch(() => undefined);
  clearTimeout(timer);
}
