import { openBroker } from "@muster/broker/broker";
import { startService } from "@muster/service/start";
import { openAgent } from "./agent.ts";
import { openDrivers } from "./drivers/registry.ts";
import { openLogin } from "./identity/login.ts";
import { openHome } from "./journal/home.ts";
import { openJournalOrIdle } from "./journal/idle.ts";
import { Secrets } from "./secrets/resolve.ts";
import { settings } from "./settings.ts";
import { amqpTransport } from "./transport/amqp.ts";

/** As in sysexits.h, EX_TEMPFAIL: a newer session took over; whoever restarts this process should wait. */
const supersededExitCode = 75;
const flushMs = 3_000;
const otherwiseMs = 2 * flushMs + 2_000;

await startService({ name: "agent", settings, env: process.env, argv: process.argv }, async (service) => {
  const { config, logger, metrics, version } = service;
  const home = service.own("home", openHome(config.MUSTER_AGENT_HOME));
  const journal = openJournalOrIdle(home.path, service);
  if (journal === undefined) return;
  const drivers = await openDrivers(config.MUSTER_AGENT_DRIVERS, {
    home: home.path,
    stopGraceMs: config.MUSTER_AGENT_KILL_GRACE_MS,
    secretsDir: config.MUSTER_AGENT_SECRETS_DIR,
  });
  const login = openLogin(config, home.path, { logger, metrics });
  const { tenantId, agentId, tokens, secret } = login;
  const broker = service.own(
    "broker",
    await openBroker({
      ...{ url: login.url, name: `agent ${agentId}`, logger, metrics },
      // For as long as it takes: a broker that is away ends no agent, nor one that cannot verify a token for the moment.
      openTimeoutMs: Number.MAX_SAFE_INTEGER,
      refusalIsFinal: tokens === undefined,
      ...(tokens === undefined ? {} : { onRefused: () => tokens.distrust() }),
      ...(secret === undefined ? {} : { secret }),
    }),
    (opened) => opened.health(),
  );
  const transport = service.own("transport", amqpTransport({ broker, tenantId, agentId, logger, metrics }));
  const waitMs = config.MUSTER_AGENT_SECRETS_WAIT_MS;
  const secrets = new Secrets({ transport, tenantId, agentId, key: login.key, waitMs });
  const agent = await openAgent({
    ...{ version, journal, drivers, transport, secrets, logger, metrics, flushMs },
    vmUuids: () => login.vmUuids(),
    stopGraceMs: Math.max(
      0,
      Math.min(config.MUSTER_AGENT_STOP_GRACE_MS, config.MUSTER_DRAIN_TIMEOUT_MS - otherwiseMs),
    ),
    onSuperseded: () => {
      void agent
        .close()
        .then(() => journal.close())
        .finally(() => process.exit(supersededExitCode));
    },
  });
  service.own("agent", agent, (opened) => opened.health());
  if (tokens === undefined) return;
  service.own("tokens", tokens, (opened) => opened.health());
  tokens.start(async ({ access_token }) => {
    await broker.updateSecret(access_token);
    agent.vmsMayHaveChanged();
  });
});
