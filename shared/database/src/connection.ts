import pg from "pg";
import { Sequelize } from "sequelize";
import { checkedName } from "./scope.ts";

/** One connection of the pool, as the driver gives it. */
export type PgConnection = pg.Client;

export interface ConnectionSettings {
  readonly url: string;
  readonly schema: string;
  readonly applicationName: string;
  readonly poolMax: number;
  readonly statementTimeoutMs: number;
  readonly acquireTimeoutMs: number;
}

const int8 = 20;
const int8Array: number = 1016;
const connectTimeoutMs = 5_000;
const idleMs = 60_000;

/**
 * Every statement goes by an index where there is one. The planner otherwise scans a table that was tiny or
 * never analysed when a prepared statement was first planned, and keeps that plan while the table grows
 * (`UPDATE … FROM unnest()` most of all). A report that wants a hash join says `SET LOCAL enable_hashjoin = on`.
 */
const plannerSettings = {
  jit: "off",
  random_page_cost: "1.1",
  enable_seqscan: "off",
  enable_hashjoin: "off",
  enable_mergejoin: "off",
};

/** Options that the mapper has and its types lack. Without this one it sets the time zone of every connection. */
const unlisted = { keepDefaultTimezone: true };

/** The pool, and the mapper on it. Nothing connects yet. */
export function makeSequelize(settings: ConnectionSettings): Sequelize {
  const startup = { search_path: checkedName(settings.schema, "schema"), ...plannerSettings };
  return new Sequelize(settings.url, {
    dialect: "postgres",
    dialectModule: pg,
    logging: false,
    ...unlisted,
    standardConformingStrings: false,
    define: { freezeTableName: true, timestamps: false },
    pool: {
      max: settings.poolMax,
      min: Math.min(2, settings.poolMax),
      acquire: settings.acquireTimeoutMs,
      idle: idleMs,
      evict: 5_000,
    },
    hooks: { afterConnect: (connection) => readWholeNumbers(asPgConnection(connection)) },
    dialectOptions: {
      application_name: settings.applicationName,
      statement_timeout: settings.statementTimeoutMs,
      // The driver's own limit, for a server that has gone silent; the server's comes first otherwise.
      query_timeout: settings.statementTimeoutMs + 5_000,
      idle_in_transaction_session_timeout: Math.max(60_000, settings.statementTimeoutMs * 4),
      connectionTimeoutMillis: connectTimeoutMs,
      keepAlive: true,
      clientMinMessages: "ignore",
      options: Object.entries(startup)
        .map(([name, value]) => `-c ${name}=${value}`)
        .join(" "),
    },
  });
}

/** The mapper types a connection as an object; this holds it against the driver's own class. */
export function asPgConnection(connection: unknown): PgConnection {
  if (connection instanceof pg.Client) return connection;
  throw new TypeError("the pool gave something that is not a connection of the pg driver");
}

/** bigint columns come as numbers on this pool's connections only; one that a number cannot hold is an error. */
function readWholeNumbers(connection: PgConnection): void {
  const strings: (text: string) => unknown = pg.types.getTypeParser(int8Array, "text");
  connection.setTypeParser(int8, "text", wholeNumber);
  connection.setTypeParser(int8Array, "text", (text: string) => wholeNumbers(strings(text)));
}

function wholeNumber(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value)) {
    throw new RangeError(`bigint ${text} is beyond what a number holds exactly; select it as text`);
  }
  return value;
}

function wholeNumbers(parsed: unknown): unknown {
  if (Array.isArray(parsed)) return parsed.map(wholeNumbers);
  return typeof parsed === "string" ? wholeNumber(parsed) : parsed;
}
