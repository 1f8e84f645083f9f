import type { Fault } from "./fault.ts";
import { brokerLinks, databaseLinks } from "./world.ts";

const targets = [...brokerLinks, ...databaseLinks];

export const linkFaults: readonly Fault[] = [
  {
    name: "link cut",
    targets,
    lastsMs: [100, 12_000],
    async inject(world, target) {
      const link = world.link(target);
      link.refuse();
      link.cut();
      return { heal: async () => link.heal() };
    },
  },
  {
    name: "link cut one way",
    targets,
    lastsMs: [3_000, 20_000],
    async inject(world, target, roll) {
      const link = world.link(target);
      const direction = roll < 0.5 ? "up" : "down";
      link.stall(direction);
      return {
        heal: async () => link.heal(),
        detail: direction === "up" ? "nothing arrives" : "nothing comes back",
      };
    },
  },
  {
    name: "link stalled",
    targets,
    lastsMs: [3_000, 20_000],
    async inject(world, target) {
      const link = world.link(target);
      link.stall();
      return { heal: async () => link.heal() };
    },
  },
  {
    name: "link slow",
    targets,
    lastsMs: [4_000, 15_000],
    async inject(world, target, roll) {
      const link = world.link(target);
      const delayMs = Math.round(50 + roll * 450);
      link.delay(delayMs);
      link.throttle(64 * 1_024);
      return { heal: async () => link.heal(), detail: `${delayMs} ms each way, 64 KiB/s` };
    },
  },
];
