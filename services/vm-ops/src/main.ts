import { openBroker } from "@muster/broker/broker";
import type { Broker } from "@muster/broker/broker";
import { authRequests } from "@muster/contracts/auth";
import { uuidv7 } from "@muster/contracts/ids";
import { openDatabase } from "@muster/database/database";
import { hearIssuer } from "@muster/identity/hear-issuer";
import { announceMode } from "@muster/identity/mode";
import { openMeshVerifier } from "@muster/identity/mesh-verify";
import { startService } from "@muster/service/start";
import { settings } from "./config.ts";
import { openVmOps } from "./open-vm-ops.ts";

await startService(
  { name: "vm-ops", settings, env: process.env, argv: process.argv },
  async ({ config, logger, metrics, own }) => {
    own(
      "auth mode",
      announceMode({
        mode: config.AUTH_MODE,
        shadowTenantId: config.MUSTER_SHADOW_TENANT_ID,
        logger,
        metrics,
      }),
      (announced) => announced.health(),
    );
    const database = own(
      "database",
      await openDatabase({
        url: config.MUSTER_DATABASE_URL,
        schema: "vm_ops",
        applicationName: "muster-vm-ops",
        poolMax: config.MUSTER_VMOPS_POOL_MAX,
        statementTimeoutMs: config.MUSTER_VMOPS_STATEMENT_TIMEOUT_MS,
        logger,
        metrics,
      }),
      (opened) => opened.health(),
    );
    const verifier = own(
      "verifier",
      openMeshVerifier({
        service: "vm-ops",
        // Asked when the first token is verified; by then the broker below is there.
        fetchKeys: () => broker.request(authRequests.getMeshKeys, {}, { correlationId: uuidv7() }),
        fetchRevocations: (page) =>
          broker.request(authRequests.listTokenRevocations, page, { correlationId: uuidv7() }),
        mode: config.AUTH_MODE,
        shadowTenantId: config.MUSTER_SHADOW_TENANT_ID,
        keysMaxAgeMs: config.MUSTER_KEYS_MAX_AGE_SECONDS * 1_000,
        logger,
        metrics,
      }),
    );
    const broker: Broker = own(
      "broker",
      await openBroker({
        url: config.MUSTER_AMQP_URL,
        name: "vm-ops",
        service: "vm-ops",
        identify: (token, asked) => verifier.verify(token, asked),
        vmQueue: { type: config.MUSTER_VM_QUEUE_TYPE },
        logger,
        metrics,
      }),
      (opened) => opened.health(),
    );
    own("issuer changes", await hearIssuer(broker, verifier));
    await openVmOps({ config, database, broker, logger, metrics, own });
  },
);
