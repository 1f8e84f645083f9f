import type { Metrics } from "@muster/telemetry/metrics";

const secondsBuckets = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];

export type DeliveryOutcome =
  "acked" | "retried" | "dead_lettered" | "duplicate" | "dropped" | "late" | "requeued";

/** Every instrument of this package, made once per process. */
export function createInstruments(metrics: Metrics) {
  return {
    published: metrics.counter({
      name: "muster_broker_publish_total",
      help: "Publishes by what became of them",
      labels: ["type", "verdict"],
    }),
    confirmSeconds: metrics.histogram({
      name: "muster_broker_confirm_seconds",
      help: "From publish to the broker's confirm",
      buckets: secondsBuckets,
    }),
    deliveries: metrics.counter({
      name: "muster_consumer_deliveries_total",
      help: "Deliveries by what became of them",
      labels: ["queue", "outcome"],
    }),
    handlerSeconds: metrics.histogram({
      name: "muster_consumer_handler_seconds",
      help: "One call of a handler, batch or single",
      labels: ["queue", "type"],
      buckets: secondsBuckets,
    }),
    inFlight: metrics.gauge({
      name: "muster_consumer_in_flight",
      help: "Deliveries taken and not yet settled",
      labels: ["queue"],
    }),
    connectionUp: metrics.gauge({
      name: "muster_broker_connection_up",
      help: "1 while the connection is up",
      labels: ["connection"],
    }),
    blocked: metrics.gauge({
      name: "muster_broker_blocked",
      help: "1 while the broker has blocked our publishing connection",
    }),
    reconnects: metrics.counter({
      name: "muster_broker_reconnects_total",
      help: "Connections made after the first",
      labels: ["connection"],
    }),
    forged: metrics.counter({
      name: "muster_mesh_forged_total",
      help: "Messages that were refused since their sender may not send them, by kind of message and why",
      labels: ["kind", "reason"],
    }),
    requests: metrics.counter({
      name: "muster_requests_total",
      help: "Requests asked, by outcome: ok or an error code",
      labels: ["type", "outcome"],
    }),
    requestSeconds: metrics.histogram({
      name: "muster_request_seconds",
      help: "From asking to the reply or the failure",
      labels: ["type"],
      buckets: secondsBuckets,
    }),
    queueRepairs: metrics.counter({
      name: "muster_broker_queue_repairs_total",
      help: "Queues that answered nothing any more and were deleted and declared anew",
      labels: ["queue"],
    }),
    hintsDropped: metrics.counter({
      name: "muster_broker_hints_dropped_total",
      help: "Hints dropped because the connection was not ready for them",
    }),
  };
}

export type Instruments = ReturnType<typeof createInstruments>;

/** Per-VM queues share one label value: label sets stay bounded. */
export const queueLabel = (queue: string): string => (queue.startsWith("vm.") ? "vm" : queue);
