import { openBroker } from "@muster/broker/broker";
import { announceMode } from "@muster/identity/mode";
import { startService } from "@muster/service/start";
import { settings } from "./config.ts";
import { openGateway } from "./open-gateway.ts";

await startService({ name: "gateway", settings, env: process.env, argv: process.argv }, async (service) => {
  const { config, logger, metrics, version } = service;
  service.own(
    "auth mode",
    announceMode({ mode: config.AUTH_MODE, shadowTenantId: config.MUSTER_SHADOW_TENANT_ID, logger, metrics }),
    (announced) => announced.health(),
  );
  const broker = service.own(
    "broker",
    await openBroker({ url: config.MUSTER_AMQP_URL, name: "gateway", service: "gateway", logger, metrics }),
    (opened) => opened.health(),
  );
  const gateway = service.own(
    "http",
    await openGateway({ config, broker, version, logger, metrics }),
    (opened) => opened.health(),
  );
  logger.info({ url: gateway.server.url }, "the API listens");
});
