import { vmCommandDoorbell } from "@muster/contracts/agents";
import { vmQueue } from "@muster/contracts/topology";
import { uuidv7 } from "@muster/contracts/ids";
import type { Broker } from "@muster/broker/broker";
import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import { readBell } from "./read-bell.ts";
import type { Transport } from "./transport.ts";

/** A VM's queue carries doorbells, by who may ring. */
const options = { prefetch: 50, doorbell: vmCommandDoorbell };
const watchMs = 500;

/** Doorbells from the VMs' queues, reports by request and reply through the broker. */
export function amqpTransport(o: {
  broker: Broker;
  tenantId: string;
  agentId: string;
  logger: Logger;
  metrics: Metrics;
}): Transport {
  const { broker, tenantId, agentId, logger } = o;
  const unreadable = o.metrics.counter({
    name: "muster_agent_unreadable_doorbells_total",
    help: "Doorbells that were rejected because they could not be read",
  });
  const listeners = new Set<() => void>();
  let connected = broker.state === "connected";
  const watch = setInterval(() => {
    const now = broker.state === "connected";
    if (now && !connected) for (const listener of listeners) listener();
    connected = now;
  }, watchMs);
  return {
    name: "amqp",
    report: (contract, payload, options) =>
      broker.report(contract, payload, { tenantId, agentId }, { correlationId: uuidv7(), tenantId }, options),
    listen: (vmUuid, onBell) =>
      broker.consume(vmQueue(tenantId, vmUuid), options, (delivery) => {
        try {
          const bell = readBell(delivery, vmUuid);
          onBell({ bell, accept: () => delivery.ack() });
        } catch (error) {
          unreadable.inc();
          logger.warn(
            { err: error, vm_uuid: vmUuid, message_id: delivery.messageId },
            "unreadable doorbell rejected",
          );
          delivery.reject(false);
        }
      }),
    onRestored: (listener) => void listeners.add(listener),
    close: () => {
      clearInterval(watch);
      return Promise.resolve();
    },
  };
}
