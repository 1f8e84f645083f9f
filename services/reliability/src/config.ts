import {
  amqpUrl,
  authMode,
  databaseUrl,
  managementUrl,
  keysMaxAgeSeconds,
  shadowTenantId,
} from "@muster/service/known-settings";
import { choice, duration, integer } from "@muster/service/settings";
import type { Values } from "@muster/service/settings";

const day = 86_400_000;

export const settings = {
  MUSTER_AMQP_URL: amqpUrl,
  MUSTER_MANAGEMENT_URL: managementUrl,
  MUSTER_DATABASE_URL: databaseUrl,
  AUTH_MODE: authMode,
  MUSTER_SHADOW_TENANT_ID: shadowTenantId,
  MUSTER_KEYS_MAX_AGE_SECONDS: keysMaxAgeSeconds,
  MUSTER_VMOPS_RUNNING_MAX_MS: duration({
    help: "A running command whose lease was not renewed for so long has lost it",
    min: 60_000,
    max: 30 * day,
    default: 900_000,
  }),
  MUSTER_VMOPS_DISPATCHED_MAX_MS: duration({
    help: "A dispatched command that an online agent did not claim for so long is put back",
    min: 15_000,
    max: 30 * day,
    default: 60_000,
  }),
  MUSTER_VMOPS_DISPATCH_MAX_REQUEUES: integer({
    help: "How often a command is put back before it is dead-lettered; also the delivery limit of VM queues",
    min: 0,
    max: 1_000,
    default: 2,
  }),
  MUSTER_VM_QUEUE_TYPE: choice(["quorum", "classic"], { help: "Type of the VMs' queues", default: "quorum" }),
  MUSTER_VM_QUEUE_LENGTH_MAX: integer({
    help: "Doorbells that one VM's queue holds",
    min: 100,
    max: 1_000_000,
    default: 10_000,
  }),
  MUSTER_RELIABILITY_SWEEP_INTERVAL_MS: duration({
    help: "How often owners are asked to sweep",
    min: 250,
    max: 600_000,
    default: 5_000,
  }),
  MUSTER_RELIABILITY_SWEEP_LIMIT: integer({
    help: "Commands that one sweep changes at most, per rule; it is repeated while there are more",
    min: 1,
    max: 10_000,
    default: 500,
  }),
  MUSTER_RELIABILITY_HEARTBEAT_MS: duration({
    help: "How often an agent of a small fleet is told to send heartbeats",
    min: 200,
    max: 60_000,
    default: 15_000,
  }),
  MUSTER_RELIABILITY_HEARTBEATS_PER_SECOND_MAX: integer({
    help: "Heartbeats that all agents together may send; a large fleet is told longer intervals",
    min: 1,
    max: 100_000,
    default: 500,
  }),
  MUSTER_RELIABILITY_SUSPECT_AFTER_MS: duration({
    help: "An agent that was silent for so long is suspect",
    min: 500,
    max: 600_000,
    default: 45_000,
  }),
  MUSTER_RELIABILITY_LOST_AFTER_MS: duration({
    help: "An agent that was silent for so long is lost",
    min: 1_000,
    max: day,
    default: 120_000,
  }),
  MUSTER_RELIABILITY_PRESENCE_INTERVAL_MS: duration({
    help: "How often silence is judged",
    min: 100,
    max: 60_000,
    default: 1_000,
  }),
  MUSTER_RELIABILITY_AUDIT_INTERVAL_MS: duration({
    help: "How often the audits count what must be 0",
    min: 1_000,
    max: day,
    default: 60_000,
  }),
  MUSTER_RELIABILITY_PRUNE_INTERVAL_MS: duration({
    help: "How often old inbox rows are removed",
    min: 1_000,
    max: day,
    default: 600_000,
  }),
  MUSTER_RELIABILITY_INBOX_RETENTION_MS: duration({
    help: "How long inbox rows are kept: longer than any message may still come again",
    min: 3_600_000,
    max: 365 * day,
    default: 7 * day,
  }),
  MUSTER_RELIABILITY_MIRROR_INTERVAL_MS: duration({
    help: "How often the broker's policy for VM queues is compared with ours",
    min: 500,
    max: 3_600_000,
    default: 30_000,
  }),
  MUSTER_RELIABILITY_LEADER_CHECK_MS: duration({
    help: "How often the leader looks whether it still leads, and the others whether they may",
    min: 100,
    max: 3_000,
    default: 1_000,
  }),
  MUSTER_RELIABILITY_POOL_MAX: integer({ help: "Database connections", min: 2, max: 100, default: 8 }),
  MUSTER_RELIABILITY_STATEMENT_TIMEOUT_MS: duration({
    help: "How long one statement may take",
    min: 1_000,
    max: 120_000,
    default: 30_000,
  }),
};

export type Config = Values<typeof settings>;

/** Rules between settings; throws an error that names both. */
export function checkTogether(config: Config): void {
  const suspect = config.MUSTER_RELIABILITY_SUSPECT_AFTER_MS;
  const lost = config.MUSTER_RELIABILITY_LOST_AFTER_MS;
  const heartbeat = config.MUSTER_RELIABILITY_HEARTBEAT_MS;
  if (lost <= suspect) {
    throw new Error(
      `MUSTER_RELIABILITY_LOST_AFTER_MS must be more than MUSTER_RELIABILITY_SUSPECT_AFTER_MS; is ${lost}, not more than ${suspect}`,
    );
  }
  if (suspect < 2 * heartbeat) {
    throw new Error(
      `MUSTER_RELIABILITY_SUSPECT_AFTER_MS must be at least twice MUSTER_RELIABILITY_HEARTBEAT_MS; is ${suspect}, less than 2 × ${heartbeat}`,
    );
  }
}
