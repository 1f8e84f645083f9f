import {
  amqpUrl,
  authMode,
  databaseUrl,
  keysMaxAgeSeconds,
  shadowTenantId,
} from "@muster/service/known-settings";
import { choice, duration, integer } from "@muster/service/settings";
import type { Values } from "@muster/service/settings";

export const settings = {
  MUSTER_AMQP_URL: amqpUrl,
  MUSTER_DATABASE_URL: databaseUrl,
  AUTH_MODE: authMode,
  MUSTER_SHADOW_TENANT_ID: shadowTenantId,
  MUSTER_KEYS_MAX_AGE_SECONDS: keysMaxAgeSeconds,
  MUSTER_VM_QUEUE_TYPE: choice(["quorum", "classic"], { help: "Type of the VMs' queues", default: "quorum" }),
  MUSTER_VMOPS_LEASE_MS: duration({
    help: "How long a claim holds without being renewed; agents renew every third of it",
    min: 3_000,
    max: 3_600_000,
    default: 90_000,
  }),
  MUSTER_VMOPS_VM_WAITING_MAX: integer({
    help: "Commands that may wait for one VM; more are refused with VM_QUEUE_FULL",
    min: 1,
    max: 4_000,
    default: 1_000,
  }),
  MUSTER_RELIABILITY_HEARTBEAT_MS: duration({
    help: "How often an agent of a small fleet is told to send heartbeats",
    min: 200,
    max: 60_000,
    default: 15_000,
  }),
  MUSTER_VMOPS_OUTBOX_DEPTH_MAX: integer({
    help: "Unpublished messages beyond which no command is accepted",
    min: 100,
    max: 1_000_000,
    default: 8_000,
  }),
  MUSTER_VMOPS_OUTBOX_AGE_MAX_MS: duration({
    help: "Age of the oldest unpublished message beyond which no command is accepted",
    min: 1_000,
    max: 600_000,
    default: 15_000,
  }),
  MUSTER_VMOPS_POOL_MAX: integer({ help: "Database connections", min: 4, max: 200, default: 16 }),
  MUSTER_VMOPS_BATCH_CONCURRENCY: integer({
    help: "Batches of one kind of message that are handled at once",
    min: 1,
    max: 32,
    default: 2,
  }),
  MUSTER_VMOPS_STATEMENT_TIMEOUT_MS: duration({
    help: "How long one statement may take",
    min: 1_000,
    max: 120_000,
    default: 15_000,
  }),
};

export type Config = Values<typeof settings>;
