import type { Health } from "./closing.ts";

const checkTimeoutMs = 2_000;

export type Phase = "starting" | "ready" | "draining" | "failed";

export interface Readiness {
  readonly ready: boolean;
  readonly phase: Phase;
  readonly dependencies: Readonly<Record<string, Health>>;
}

/** What a service is ready for: its phase, and each dependency by name with its reason. */
export class ReadinessBoard {
  #phase: Phase = "starting";
  readonly #checks = new Map<string, () => Health | Promise<Health>>();

  get phase(): Phase {
    return this.#phase;
  }

  /** Phases only go forward; nothing comes back from draining or failed. */
  advance(to: Phase): void {
    const order: Phase[] = ["starting", "ready", "draining", "failed"];
    if (order.indexOf(to) > order.indexOf(this.#phase)) this.#phase = to;
  }

  watch(name: string, check: () => Health | Promise<Health>): void {
    if (this.#checks.has(name)) throw new Error(`two dependencies are named ${name}; name them apart`);
    this.#checks.set(name, check);
  }

  async read(): Promise<Readiness> {
    const names = [...this.#checks.entries()];
    const found = await Promise.all(
      names.map(async ([name, check]) => [name, await bounded(check)] as const),
    );
    const dependencies = Object.fromEntries(found);
    const ready = this.#phase === "ready" && found.every(([, health]) => health.ok);
    return { ready, phase: this.#phase, dependencies };
  }
}

async function bounded(check: () => Health | Promise<Health>): Promise<Health> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<Health>((resolve) => {
    const health = { ok: false, reason: `no answer from its health check in ${checkTimeoutMs} ms` };
    timer = setTimeout(() => resolve(health), checkTimeoutMs);
  });
  try {
    return await Promise.race([check(), late]);
  } catch (error) {
    return { ok: false, reason: error instanceof Error ? error.message : "health check failed" };
  } finally {
    clearTimeout(timer);
  }
}
