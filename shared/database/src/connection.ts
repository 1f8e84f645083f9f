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
const int8Array = 1016;
/** The driver's own types list the built-in types as an enum without arrays, and read into `any`. */
interface TypeParsers {
  getTypeParser(oid: number, format: "text"): (text: string) => unknown;
  setTypeParser(oid: number, format: "text", read: (text: string) => unknown): void;
}

const connectTimeoutMs = 5_000;
const idleMs = 60_000;

/**
 * Every statement goes by an index where there is one. A prepared statement that was first planned on a tiny or
 * never analysed table otherwise keeps scanning it while it grows (measured at 100 000 rows: 15 ms for an UPDATE of
 * ten ids instead of 0.4 ms). With scans this "dear", just-in-time compilation would start for nothing.
 */
const plannerSettings = { enable_seqscan: "off", random_page_cost: "1.1", jit: "off" };

/**
 * The mapper listens for errors one turn after a connection is made. A server that goes in that moment sends its last
 * word in the same piece as its welcome, and an error that nobody listens for takes the process down. The connection
 * is dead then, and says so to whoever asks it first.
 */
class Client extends pg.Client {
  constructor(config?: string | pg.ClientConfig) {
    super(config);
    this.on("error", () => undefined);
  }
}
const driver: object = Object.create(pg, { Client: { value: Client } }) as object;

/** Options that the mapper has and its types lack. Without this one it sets the time zone of every connection. */
const unlisted = { keepDefaultTimezone: true };

/** The pool, and the mapper on it. Nothing connects yet. */
export function makeSequelize(settings: ConnectionSettings): Sequelize {
  const startup = { search_path: checkedName(settings.schema, "schema"), ...plannerSettings };
  return new Sequelize(settings.url, {
    dialect: "postgres",
    dialectModule: driver,
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
  const parsers: TypeParsers = connection;
  const strings: TypeParsers = pg.types;
  const readArray = strings.getTypeParser(int8Array, "text");
  parsers.setTypeParser(int8, "text", wholeNumber);
  parsers.setTypeParser(int8Array, "text", (text) => wholeNumbers(readArray(text)));
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
