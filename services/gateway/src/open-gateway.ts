import type { Broker } from "@muster/broker/broker";
import { openapiOf } from "@muster/contracts/openapi";
import { routes } from "@muster/contracts/routes";
import type { Handlers } from "@muster/http/handler";
import { openHttpServer } from "@muster/http/server";
import type { HttpServer } from "@muster/http/server";
import type { Values } from "@muster/service/settings";
import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import type { settings } from "./config.ts";
import { openIdentity } from "./identity/open-identity.ts";
import { LiveHints } from "./output/hints.ts";
import { agentHandlers } from "./routes/agents.ts";
import { accountHandlers } from "./routes/accounts.ts";
import { commandHandlers } from "./routes/commands.ts";
import { identityHandlers } from "./routes/identity.ts";
import { issuerHandlers } from "./routes/issuers.ts";
import { outputHandlers } from "./routes/output.ts";
import { reliabilityHandlers } from "./routes/reliability.ts";
import { secretsHandlers } from "./routes/secrets.ts";
import { tokenHandlers } from "./routes/tokens.ts";
import { vmHandlers } from "./routes/vms.ts";
import { openSealing } from "./secrets/sealing.ts";

export interface GatewayOptions {
  readonly config: Values<typeof settings>;
  readonly broker: Pick<Broker, "request" | "state" | "watch" | "hear">;
  readonly version: string;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

export interface Gateway {
  readonly server: HttpServer;
  readonly hints: LiveHints;
  health(): ReturnType<HttpServer["health"]>;
  close(): Promise<void>;
}

/** The public door, on a broker that is open; resolves when it listens. */
export async function openGateway(o: GatewayOptions): Promise<Gateway> {
  const { config, broker, logger, metrics } = o;
  const identity = await openIdentity(o);
  const { ask, apiKeys, identify, keyDocument, brokerKeyDocument } = identity;
  const authTimeoutMs = config.MUSTER_GATEWAY_AUTH_TIMEOUT_MS;
  const hints = await LiveHints.open(broker);
  const handlers: Handlers<typeof routes> = {
    ...identityHandlers(),
    ...tokenHandlers({ ask, identify, apiKeys, authTimeoutMs }),
    ...agentHandlers({ ask, authTimeoutMs }),
    ...accountHandlers({ ask }),
    ...issuerHandlers({ ask }),
    ...vmHandlers({ ask }),
    ...commandHandlers({ ask }),
    ...outputHandlers({
      ask,
      identify,
      hints,
      pollMs: config.MUSTER_GATEWAY_STREAM_POLL_MS,
      lingerMs: config.MUSTER_GATEWAY_STREAM_LINGER_MS,
    }),
    ...reliabilityHandlers({ ask }),
    ...secretsHandlers({ ask, sealing: openSealing({ ask }) }),
  };
  const server = await openHttpServer({
    host: config.MUSTER_GATEWAY_HOST,
    port: config.MUSTER_GATEWAY_PORT,
    routes,
    handlers,
    authenticate: identify,
    trusted: config.MUSTER_GATEWAY_TRUSTED_PROXIES,
    logger,
    metrics,
    openapi: openapiOf(routes, { title: "Muster", version: o.version }),
    documents: {
      "/.well-known/jwks.json": () => keyDocument.read(),
      "/.well-known/broker-jwks.json": () => brokerKeyDocument.read(),
    },
    limits: {
      inFlightMax: config.MUSTER_GATEWAY_IN_FLIGHT_MAX,
      connectionsMax: config.MUSTER_GATEWAY_CONNECTIONS_MAX,
      streamsMax: config.MUSTER_GATEWAY_STREAMS_MAX,
    },
  }).catch(async (error: unknown) => {
    await hints.close();
    await identity.close();
    throw error;
  });
  return {
    server,
    hints,
    health() {
      const listening = server.health();
      return listening.ok ? identity.health() : listening;
    },
    async close() {
      await server.close();
      await hints.close();
      await identity.close();
    },
  };
}
