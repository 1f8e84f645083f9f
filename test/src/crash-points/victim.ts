import { randomUUID } from "node:crypto";
import { renameSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { eventually } from "@muster/testing/eventually";
import type { ManagedProcess } from "../processes.ts";
import { orderVariable, type Order, type Plan, type Point } from "./plan.ts";

const preload = new URL("./preload.js", import.meta.url).href;

/** A process of the system that is started with the preload, and can be made to die at any of its steps. */
export class Victim {
  readonly process: ManagedProcess;
  readonly #order: Order;

  /** `home`: an agent's; with `supervisors` those that it starts have the preload too. */
  constructor(
    process: ManagedProcess,
    folder: string,
    { home = null, supervisors = false }: { home?: string | null; supervisors?: boolean } = {},
  ) {
    this.process = process;
    const place = (name: string): string => join(folder, `crash-${process.name}-${name}`);
    this.#order = {
      ...{ trace: place("trace"), plan: place("plan"), folder: home },
      supervisors:
        home === null || !supervisors
          ? null
          : {
              trace: place("supervisors-trace"),
              plan: place("supervisors-plan"),
              folder: join(home, "runs"),
            },
    };
  }

  /** Starts it with the preload. */
  start(): void {
    this.process.start({
      NODE_OPTIONS: `--import ${preload}`,
      [orderVariable]: JSON.stringify(this.#order),
    });
  }

  /** Tells it, or the next supervisor that it starts, where to do what; answers the id by which `hit` knows it. */
  arm(points: readonly Point[], supervisor = false): string {
    const plan: Plan = { id: `${this.process.name}-${randomUUID()}`, points: [...points] };
    const file = supervisor ? (this.#order.supervisors?.plan ?? "") : this.#order.plan;
    // Whole at once: it is read at any moment.
    writeFileSync(`${file}.new`, JSON.stringify(plan));
    renameSync(`${file}.new`, file);
    return plan.id;
  }

  /** Nothing more will happen to it. */
  disarm(): void {
    this.arm([]);
  }

  /** Which point of the plan came about within the time: its index, or -1. */
  async hit(id: string, withinMs: number, supervisor = false): Promise<number> {
    const prefix = `hit ${id} `;
    const line = await eventually(
      async () => (await this.#lines(supervisor)).find((one) => one.startsWith(prefix)),
      withinMs,
    ).catch(() => undefined);
    return line === undefined ? -1 : Number(line.slice(prefix.length));
  }

  /** Resolves when the process is gone; what killed itself is gone in a moment. */
  async gone(): Promise<void> {
    await eventually(() => this.process.ended, 10_000);
  }

  /** The distinct steps that it has taken so far, in the order of their first time. */
  async steps(supervisor = false): Promise<string[]> {
    const lines = await this.#lines(supervisor);
    return [...new Set(lines.filter((line) => line.startsWith("step ")).map((line) => line.slice(5)))];
  }

  async #lines(supervisor: boolean): Promise<string[]> {
    const file = supervisor ? (this.#order.supervisors?.trace ?? "") : this.#order.trace;
    return (await readFile(file, "utf8").catch(() => "")).split("\n");
  }
}
