import { fileURLToPath } from "node:url";
import { defineBatchRequest, defineSubscription, type PayloadOf } from "@muster/contracts/define";
import type { WorkContext } from "@muster/contracts/envelope";
import { uuidv7 } from "@muster/contracts/ids";
import { topologyOf, type Topology } from "@muster/contracts/topology";
import { commandFinished } from "@muster/contracts/vm-ops";
import { newTraceparent } from "@muster/telemetry/context";
import { z } from "zod";

/** Both sides publish and consume this event of the product, by the same exchange and queue. */
export const event = commandFinished;
export const window = 100;
export const subscription = defineSubscription({
  service: "reliability",
  name: "figure",
  summary: "What the figure consumes.",
  events: { commandFinished },
  prefetch: 250,
  batch: { sizeMax: 100, waitMs: 5 },
});

export const ask = defineBatchRequest({
  name: "vm-ops.figure.ask.v1",
  summary: "What the figure asks.",
  owner: "vm-ops",
  payload: z.strictObject({ n: z.number().int(), text: z.string().max(1_000) }),
  reply: z.object({ n: z.number().int(), text: z.string() }),
  codes: [],
  identity: "none",
  callers: ["vm-ops"],
  batch: { sizeMax: 100, waitMs: 1 },
});
export const askers = 32;

export function topology(): Topology {
  return topologyOf({
    events: [event],
    requests: { "vm-ops": { ask } },
    reports: [],
    hearings: [],
    subscriptions: [subscription],
    doorbells: [],
    vmQueues: { type: "quorum", deliveryLimit: 2, lengthMax: 10_000 },
  });
}

export const schema = "figure";
export const migrations = fileURLToPath(new URL("../../../src/p3-messaging/migrations/", import.meta.url));

/** The tables of the bare side: the same columns and keys, without roles and isolation. */
export const bareTables = `
  CREATE TABLE bare_inbox (
    consumer text NOT NULL, message_id text NOT NULL, received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer, message_id));
  CREATE TABLE bare_effects (
    message_id text NOT NULL, tenant_id text NOT NULL, command_id uuid NOT NULL, vm_uuid uuid NOT NULL,
    state text NOT NULL, at timestamptz NOT NULL);
  CREATE TABLE bare_outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, message_id text NOT NULL UNIQUE, routing_key text NOT NULL,
    body text NOT NULL, created_at timestamptz NOT NULL DEFAULT clock_timestamp())`;

export const tenantId = "acme";
const vms = Array.from({ length: 50 }, () => uuidv7());

/** What a command's end says; about 1 KiB with its envelope. */
export function payload(n: number): PayloadOf<typeof event> {
  return {
    command_id: uuidv7(),
    vm_uuid: vms[n % vms.length] ?? "",
    action: "script",
    attempt: 1,
    at: new Date().toISOString(),
    state: "succeeded",
    reason: "completed",
    effect: "applied",
    late: false,
    exit_code: 0,
    run_ms: 1_234,
    environment: "production",
    project_id: `project-${"x".repeat(100)}`,
  };
}

/** Work that came from somewhere: a caller with a trace, a cause and a tenant. */
export function context(): WorkContext {
  return {
    correlationId: uuidv7(),
    causationId: uuidv7(),
    traceparent: newTraceparent(),
    tenantId,
  };
}

/** Messages a second, and what one hop took where that was measured. */
export interface Rate {
  readonly perSecond: number;
  readonly p50Ms?: number;
  readonly p99Ms?: number;
}

export const warmUpMs = 1_500;
export interface Timed {
  readonly seconds: number;
}

/** Counts from the end of the warm-up on. */
export function openMeter(seconds: number): {
  readonly over: Promise<Rate>;
  count(howMany?: number): void;
  readonly stopped: () => boolean;
} {
  let counted = 0;
  let stopped = false;
  const over = new Promise<Rate>((resolve) => {
    setTimeout(() => {
      const before = counted;
      const startedMs = performance.now();
      setTimeout(() => {
        stopped = true;
        resolve({ perSecond: ((counted - before) * 1_000) / (performance.now() - startedMs) });
      }, seconds * 1_000);
    }, warmUpMs);
  });
  return { over, count: (howMany = 1) => void (counted += howMany), stopped: () => stopped };
}
