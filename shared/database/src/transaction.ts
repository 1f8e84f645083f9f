import { MusterError } from "@muster/contracts/errors";
import type { PreparedMessage } from "@muster/contracts/message";
import { Transaction, type Sequelize } from "sequelize";
import { asPgConnection, type PgConnection } from "./connection.ts";
import { CommitUnknownError, faultKind, publicFault } from "./faults.ts";
import type { OutboxDesk, WrittenMessage } from "./outbox-desk.ts";
import { insertAndCommit } from "./outbox-insert.ts";
import { beginText, type BeginOptions, type Scope } from "./scope.ts";

/** A transaction in progress. Unusable once the work has returned. */
export interface Tx {
  /**
   * Rows as the driver reads them (timestamptz as Date, bigint as number, numeric as text). `name` prepares the
   * statement once per connection: for statements by key. One that joins a batch is planned each time in any case.
   */
  query<R>(text: string, values?: readonly unknown[], options?: { name?: string }): Promise<R[]>;
  /** The same, answering how many rows were touched. */
  execute(text: string, values?: readonly unknown[], options?: { name?: string }): Promise<number>;
  /** For calls of the mapper: `{ transaction: tx.sequelize }`. */
  readonly sequelize: Transaction;
  /** Outbox rows, written right before the commit; published after it. At most 10 000 a transaction. */
  publish(...messages: PreparedMessage[]): void;
}

export interface TransactionOptions extends BeginOptions {
  /** How often the work is run when it collides with others; the work must have no effect outside. Default 5. */
  readonly attemptsMax?: number;
}

export interface TransactionHost {
  readonly sequelize: Sequelize;
  readonly systemRole: string;
  readonly desk: OutboxDesk;
  /** Told of each attempt's end; `error` is what the driver said. */
  observe(
    outcome: "committed" | "rolled_back" | "contention" | "failed",
    seconds: number,
    error?: unknown,
  ): void;
}

const messagesMax = 10_000;
const attemptsDefault = 5;

/** Runs the work in a transaction, again when it collided with another one, and hands its messages over. */
export async function runTransaction<T>(
  host: TransactionHost,
  scope: Scope,
  work: (tx: Tx) => Promise<T>,
  options: TransactionOptions,
): Promise<T> {
  const begin = beginText(scope, host.systemRole, options);
  const attemptsMax = options.attemptsMax ?? attemptsDefault;
  for (let attempt = 1; ; attempt++) {
    const startedMs = performance.now();
    const seconds = () => (performance.now() - startedMs) / 1_000;
    try {
      const { value, written } = await runOnce(host, begin, scope, work);
      host.observe("committed", seconds());
      if (written.length > 0) host.desk.handOver(written);
      return value;
    } catch (error) {
      const again = error instanceof NotBegunError || faultKind(error) === "contention";
      if (again && attempt < attemptsMax) {
        host.observe("contention", seconds(), error);
        await pause(Math.random() * 5 * 2 ** attempt);
        continue;
      }
      const cause = error instanceof NotBegunError ? error.cause : error;
      host.observe(faultKind(cause) === "other" ? "rolled_back" : "failed", seconds(), cause);
      throw publicFault(cause);
    }
  }
}

/** A pooled connection turned out dead before anything ran on it. */
class NotBegunError extends Error {}

async function runOnce<T>(
  host: TransactionHost,
  begin: string,
  scope: Scope,
  work: (tx: Tx) => Promise<T>,
): Promise<{ value: T; written: readonly WrittenMessage[] }> {
  const pool = host.sequelize.connectionManager;
  const connection = asPgConnection(await pool.getConnection({ type: "write" }));
  let reusable = false;
  const tx = openTx(host.sequelize, connection, scope);
  try {
    try {
      await connection.query(begin);
    } catch (error) {
      if (faultKind(error) === "lost") throw new NotBegunError("the connection was dead", { cause: error });
      throw error;
    }
    let value: T;
    try {
      value = await work(tx);
      await tx.settled();
    } catch (error) {
      await tx.settled();
      reusable = await rollBack(connection);
      throw error;
    }
    tx.close("commit");
    const written = await commit(host, connection, scope, tx.messages);
    reusable = connection.getTransactionStatus() === "I";
    return { value, written };
  } finally {
    tx.close("rollback");
    if (reusable) pool.releaseConnection(connection);
    else await pool.destroyConnection(connection).catch(() => undefined);
  }
}

async function commit(
  host: TransactionHost,
  connection: PgConnection,
  scope: Scope,
  messages: readonly PreparedMessage[],
): Promise<readonly WrittenMessage[]> {
  let sent = false;
  try {
    if (messages.length === 0) {
      sent = true;
      refuseRolledBack((await connection.query("COMMIT")).command);
      return [];
    }
    const { answer, written } = await insertAndCommit(connection, {
      messages,
      leaseMs: host.desk.leaseMs(),
      role: scope === "system" ? undefined : host.systemRole,
      committing: () => (sent = true),
    });
    refuseRolledBack(answer);
    return written;
  } catch (error) {
    // An error answered to COMMIT itself (a deferred constraint, say) is a rollback, and known. Being cut off is not.
    const kind = faultKind(error);
    if (sent && (kind === "lost" || kind === "timeout")) throw new CommitUnknownError(error);
    throw error;
  }
}

function refuseRolledBack(answer: string): void {
  if (answer === "COMMIT") return;
  throw new Error("a statement of the transaction had failed and was ignored: the commit became a rollback");
}

/** True if the connection is fit for the next user. */
async function rollBack(connection: PgConnection): Promise<boolean> {
  try {
    await connection.query("ROLLBACK");
    return connection.getTransactionStatus() === "I";
  } catch {
    return false;
  }
}

interface OpenTx extends Tx {
  readonly messages: readonly PreparedMessage[];
  /** Resolves when no statement is under way. */
  settled(): Promise<void>;
  close(how: "commit" | "rollback"): void;
}

function openTx(sequelize: Sequelize, connection: PgConnection, scope: Scope): OpenTx {
  const messages: PreparedMessage[] = [];
  let mapped: Transaction | undefined;
  let closed = false;
  // The driver takes one statement at a time; this lets the work ask for several at once.
  let last: Promise<unknown> = Promise.resolve();

  function run<R extends object>(
    text: string,
    values: readonly unknown[] | undefined,
    name: string | undefined,
  ) {
    if (closed)
      return Promise.reject(new Error("this transaction has ended; its tx cannot be used any more"));
    const prepared = name === undefined || joinsBatch(text) ? {} : { name };
    const config = { text, values: [...(values ?? [])], ...prepared };
    const result = last.then(() => connection.query<R>(config));
    last = result.catch(() => undefined);
    return result;
  }

  return {
    messages,
    async query<R>(text: string, values?: readonly unknown[], options?: { name?: string }): Promise<R[]> {
      const result = await run<R & object>(text, values, options?.name);
      return result.rows;
    },
    async execute(text, values, options) {
      const result = await run(text, values, options?.name);
      return result.rowCount ?? 0;
    },
    get sequelize() {
      mapped ??= Object.assign(new Transaction(sequelize, {}), { connection });
      return mapped;
    },
    publish(...more) {
      if (closed) throw new Error("this transaction has ended; publish inside its work");
      if (messages.length + more.length > messagesMax) {
        throw new RangeError(`more than ${messagesMax} messages in one transaction; do the work in batches`);
      }
      for (const message of more) refuseForeignTenant(message, scope);
      messages.push(...more);
    },
    async settled() {
      await last;
    },
    close(how) {
      closed = true;
      if (mapped !== undefined) Object.assign(mapped, { finished: how });
    },
  };
}

/**
 * No setting saves a prepared join with unnest(): planned once while the table is tiny, it keeps walking the whole
 * table from then on (measured at 100 000 rows: 27 ms for ten ids; planned each time, 0.5 ms).
 */
function joinsBatch(text: string): boolean {
  return /\bunnest\s*\(/i.test(text) && /\b(update|delete|join)\b/i.test(text);
}

/** What a tenant's transaction says, it says as that tenant. */
function refuseForeignTenant(message: PreparedMessage, scope: Scope): void {
  if (scope === "system" || message.tenantId === null || scope.tenants.includes(message.tenantId)) return;
  throw new MusterError("FORBIDDEN", `${message.type} is of a tenant outside this transaction's scope`);
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
