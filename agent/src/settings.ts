import { z } from "zod";
import { tenantId, uuid } from "@muster/contracts/ids";
import { amqpUrl } from "@muster/service/known-settings";
import { duration, setting, text, url } from "@muster/service/settings";
import { driverNames } from "./drivers/registry.ts";

const list = (value: string): string[] => value.split(",").map((item) => item.trim());

export const settings = {
  MUSTER_AMQP_URL: setting({
    schema: amqpUrl.schema.optional(),
    help: "RabbitMQ, with virtual host; without a user for a paired agent, which needs it only where its pairing did not say",
    secret: true,
  }),
  MUSTER_GATEWAY_URL: setting({
    schema: url({ help: "", schemes: ["http", "https"] }).schema.optional(),
    help: "The gateway, where it is not the one that the agent was paired with",
  }),
  MUSTER_TENANT_ID: setting({
    schema: tenantId.optional(),
    help: "With a password at the broker: the tenant that the agent and its VMs belong to",
  }),
  MUSTER_AGENT_ID: setting({
    schema: uuid.optional(),
    help: "With a password at the broker: id of this agent, a lower-case UUID. A paired agent knows its own",
  }),
  MUSTER_AGENT_VMS: setting({
    schema: z.string().transform(list).pipe(z.array(uuid).min(1).max(500)).optional(),
    help: "With a password at the broker: UUIDs of the VMs that this agent serves, separated by commas; at most 500",
  }),
  MUSTER_AGENT_HOME: text({
    help: "Folder of the journal and of the runs; of one agent only",
    default: "/var/lib/muster-agent",
  }),
  MUSTER_AGENT_DRIVERS: setting({
    schema: z
      .string()
      .transform(list)
      .pipe(z.array(z.enum(driverNames, `must be of ${driverNames.join(", ")}`)).min(1)),
    help: "Drivers in order of preference; echo runs nothing and is for benchmarks",
    default: "process",
  }),
  AGENT_TRANSPORT: setting({
    schema: z.literal("amqp", "must be amqp; this version has no other transport"),
    help: "The way to the mesh",
    default: "amqp",
  }),
  MUSTER_AGENT_STOP_GRACE_MS: duration({
    help: "How long a stopping agent waits for running commands before it leaves them to its next start",
    min: 0,
    max: 300_000,
    default: 5_000,
  }),
  MUSTER_AGENT_SECRETS_WAIT_MS: duration({
    help: "How long a command waits for its secrets before it is given back, when nobody can give them now",
    min: 0,
    max: 600_000,
    default: 60_000,
  }),
  MUSTER_AGENT_SECRETS_DIR: setting({
    schema: z.string().startsWith("/", "must be an absolute path").max(1_024).optional(),
    help: "Folder for secrets that reach programs as files, on a file system in memory; by default /dev/shm/muster-<uid>",
  }),
  MUSTER_AGENT_KILL_GRACE_MS: duration({
    help: "How long a cancelled or overdue program has between TERM and KILL",
    min: 0,
    max: 300_000,
    default: 10_000,
  }),
};
