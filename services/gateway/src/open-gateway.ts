import type { Broker } from "@muster/broker/broker";
import { authRequests } from "@muster/contracts/auth";
import { uuidv7 } from "@muster/contracts/ids";
import { openapiOf } from "@muster/contracts/openapi";
import { routes } from "@muster/contracts/routes";
import type { Handlers } from "@muster/http/handler";
import { openHttpServer } from "@muster/http/server";
import type { HttpServer } from "@muster/http/server";
import { openVerifier } from "@muster/identity/verify";
import type { Values } from "@muster/service/settings";
import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import { askBy } from "./asking.ts";
import type { settings } from "./config.ts";
import { ApiKeys } from "./identity/api-keys.ts";
import { identifyBearer } from "./identity/authenticate.ts";
import { keyDocument } from "./identity/key-document.ts";
import { LiveHints } from "./output/hints.ts";
import { accountHandlers } from "./routes/accounts.ts";
import { commandHandlers } from "./routes/commands.ts";
import { identityHandlers } from "./routes/identity.ts";
import { outputHandlers } from "./routes/output.ts";
import { reliabilityHandlers } from "./routes/reliability.ts";
import { vmHandlers } from "./routes/vms.ts";

export interface GatewayOptions {
  readonly config: Values<typeof settings>;
  readonly broker: Pick<Broker, "request" | "state" | "watch">;
  readonly version: string;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

export interface Gateway {
  readonly server: HttpServer;
  readonly hints: LiveHints;
  close(): Promise<void>;
}

/** The public door, on a broker that is open; resolves when it listens. */
export async function openGateway(o: GatewayOptions): Promise<Gateway> {
  const { config, broker, logger, metrics } = o;
  const ask = askBy(broker);
  const askAuth = { timeoutMs: config.MUSTER_GATEWAY_AUTH_TIMEOUT_MS };
  const fetchKeys = () => ask(authRequests.getKeys, {}, { context: newWork() }, askAuth.timeoutMs);
  const apiKeys = new ApiKeys({
    exchange: (asked) => ask(authRequests.exchangeApiKey, asked, { context: newWork() }, askAuth.timeoutMs),
    ttlMs: config.MUSTER_GATEWAY_API_KEY_TTL_MS,
    refusedTtlMs: 2_000,
    keysMax: 10_000,
    now: Date.now,
  });
  const shadowTenantId = config.MUSTER_SHADOW_TENANT_ID;
  const keysMaxAgeMs = config.MUSTER_KEYS_MAX_AGE_SECONDS * 1_000;
  const verifier = openVerifier({
    fetchKeys,
    mode: "enforced",
    shadowTenantId,
    keysMaxAgeMs,
    logger,
    metrics,
  });
  const identify = identifyBearer({
    mode: config.AUTH_MODE,
    shadowTenantId,
    apiKeys,
    verify: (token) => verifier.verify(token),
    logger,
    metrics,
  });
  const hints = await LiveHints.open(broker);
  const handlers: Handlers<typeof routes> = {
    ...identityHandlers({ apiKeys }),
    ...accountHandlers({ ask }),
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
  };
  const jwks = keyDocument({
    fetchKeys,
    maxAgeMs: Math.min(30_000, keysMaxAgeMs),
    publicMaxAgeMs: Math.min(300_000, keysMaxAgeMs),
    staleMaxMs: 10 * 60_000,
    now: Date.now,
  });
  const server = await openHttpServer({
    host: config.MUSTER_GATEWAY_HOST,
    port: config.MUSTER_GATEWAY_PORT,
    routes,
    handlers,
    authenticate: ({ bearer }) => identify(bearer),
    logger,
    metrics,
    openapi: openapiOf(routes, { title: "Muster", version: o.version }),
    documents: { "/.well-known/jwks.json": jwks },
    limits: {
      inFlightMax: config.MUSTER_GATEWAY_IN_FLIGHT_MAX,
      connectionsMax: config.MUSTER_GATEWAY_CONNECTIONS_MAX,
      streamsMax: config.MUSTER_GATEWAY_STREAMS_MAX,
    },
  }).catch(async (error: unknown) => {
    await hints.close();
    throw error;
  });
  return {
    server,
    hints,
    async close() {
      await server.close();
      await hints.close();
      await verifier.close();
    },
  };
}

/** Work that no request caused: one answer serves many. */
function newWork(): { correlationId: string } {
  return { correlationId: uuidv7() };
}
