import { requestsQueue, vmQueue } from "@muster/contracts/topology";
import type { Fault } from "./fault.ts";
import { vmNames } from "./world.ts";

const resource = "broker";
const watermark = "1GB";
export const serviceQueueDeleted = "service queue deleted";

/** Queues whose messages are asked or sent again by whoever waits for the answer. */
const requestQueues = [
  requestsQueue("auth"),
  requestsQueue("vm-ops"),
  requestsQueue("reliability"),
  "vm-ops.agents",
  "reliability.heartbeats",
];

export const brokerFaults: readonly Fault[] = [
  {
    name: "broker killed",
    ...{ targets: ["broker"], resource },
    lastsMs: [500, 6_000],
    async inject({ servers }) {
      await servers.killBroker("SIGKILL");
      return { heal: () => servers.restartBroker() };
    },
  },
  {
    name: "broker stopped",
    ...{ targets: ["broker"], resource },
    lastsMs: [2_000, 15_000],
    async inject({ servers }) {
      await servers.killBroker("SIGSTOP");
      return { heal: () => servers.killBroker("SIGCONT") };
    },
  },
  {
    name: "memory alarm",
    ...{ targets: ["broker"], resource },
    lastsMs: [3_000, 15_000],
    async inject({ servers }) {
      const { control } = servers.broker;
      if (control === undefined) throw new Error("the broker is not ours to control");
      await control(["set_vm_memory_high_watermark", "0.00001"]);
      return {
        heal: async () => {
          await control(["set_vm_memory_high_watermark", "absolute", watermark]);
        },
      };
    },
  },
  {
    name: "VM queue deleted",
    ...{ targets: vmNames, resource },
    lastsMs: [500, 500],
    async inject({ system, vm }, target) {
      await system.vhost.deleteQueue(vmQueue(system.tenantId, vm(target)));
      return { heal: () => Promise.resolve() };
    },
  },
  {
    name: serviceQueueDeleted,
    ...{ targets: requestQueues, resource },
    lastsMs: [500, 500],
    async inject({ system }, target) {
      await system.vhost.deleteQueue(target);
      return { heal: () => Promise.resolve() };
    },
  },
];
