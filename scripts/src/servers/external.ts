import { parseAmqpUrl, probeAmqp } from "./amqp-probe.ts";
import type { BrokerServer } from "./rabbitmq.ts";
import type { Server } from "./server.ts";

const probeTimeoutMs = 5_000;

export function withoutPassword(text: string): string {
  const url = new URL(text);
  if (url.password !== "") url.password = "***";
  return url.toString();
}

function reasonOf(error: unknown): string {
  if (error instanceof AggregateError) return error.errors.map(reasonOf).join("; ");
  // fetch says only that it failed; why is its cause.
  if (error instanceof TypeError && error.cause !== undefined) return reasonOf(error.cause);
  return error instanceof Error ? error.message : String(error);
}

async function checkManagement(url: string): Promise<void> {
  const { username, password, origin } = new URL(url);
  const credentials = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`;
  const answer = await fetch(`${origin}/api/whoami`, {
    headers: { authorization: `Basic ${Buffer.from(credentials).toString("base64")}` },
    signal: AbortSignal.timeout(probeTimeoutMs),
  });
  if (!answer.ok) throw new Error(`it answered ${answer.status}`);
}

/** The management API of an external broker: the given one, or the usual port of the same host and user. */
export function managementUrlFor(amqpUrl: string, given: string | undefined): string {
  if (given !== undefined && given !== "") return given.replace(/\/+$/, "");
  const { host, user, password, secure } = parseAmqpUrl(amqpUrl);
  const name = host.includes(":") ? `[${host}]` : host;
  const login = `${encodeURIComponent(user)}:${encodeURIComponent(password)}`;
  return secure ? `https://${login}@${name}:15671` : `http://${login}@${name}:15672`;
}

const notOurs = {
  origin: "external",
  main: () => undefined,
  ports: () => [],
  stop: async () => undefined,
  kill: async () => {
    throw new Error("this server was given by its address; it is not ours to kill");
  },
  onDeath: () => undefined,
} as const;

export function externalBroker(amqpUrl: string, management: string | undefined): BrokerServer {
  const managementUrl = managementUrlFor(amqpUrl, management);
  const start = async (): Promise<void> => {
    try {
      await probeAmqp(parseAmqpUrl(amqpUrl), probeTimeoutMs);
    } catch (cause) {
      const hint = "correct AMQP_URL, or unset it to let ./scripts/run start a broker of its own";
      throw new Error(`AMQP_URL ${withoutPassword(amqpUrl)} cannot be used: ${reasonOf(cause)}; ${hint}`, {
        cause,
      });
    }
    try {
      await checkManagement(managementUrl);
    } catch (cause) {
      const where = withoutPassword(managementUrl);
      const hint = "set MUSTER_MANAGEMENT_URL=http://user:password@host:port of an administrator";
      throw new Error(`the management API at ${where} cannot be used: ${reasonOf(cause)}; ${hint}`, {
        cause,
      });
    }
  };
  return { ...notOurs, url: amqpUrl, managementUrl, prometheusUrl: undefined, start };
}

/** `probe` logs in and rejects with what the server or the network said. */
export function externalDatabase(
  url: string,
  probe: (url: string, timeoutMs: number) => Promise<unknown>,
): Server {
  const start = async (): Promise<void> => {
    try {
      await probe(url, probeTimeoutMs);
    } catch (cause) {
      const hint = "correct DATABASE_URL, or unset it to let ./scripts/run start a database of its own";
      throw new Error(`DATABASE_URL ${withoutPassword(url)} cannot be used: ${reasonOf(cause)}; ${hint}`, {
        cause,
      });
    }
  };
  return { ...notOurs, url, start };
}
