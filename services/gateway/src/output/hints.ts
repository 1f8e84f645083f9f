import { liveExchange } from "@muster/contracts/topology";
import type { Watch } from "@muster/broker/broker";
import type { Broker } from "@muster/broker/broker";

/** Wakes one viewer of one command. */
export interface Waker {
  /** Resolves at the next hint, at once for one that came since the last call, at the latest after `timeoutMs`. */
  next(timeoutMs: number, signal: AbortSignal): Promise<void>;
  close(): void;
}

interface Viewer {
  woken: boolean;
  wake: (() => void) | undefined;
}

/** Hints about commands that somebody looks at; a command's key is bound while it has viewers. */
export class LiveHints {
  readonly #viewers = new Map<string, Set<Viewer>>();
  readonly #watch: Watch;

  static async open(broker: Pick<Broker, "watch">): Promise<LiveHints> {
    const wired: { hints?: LiveHints } = {};
    const watch = await broker.watch(liveExchange, (commandId) => wired.hints?.wake(commandId));
    return (wired.hints = new LiveHints(watch));
  }

  constructor(watch: Watch) {
    this.#watch = watch;
  }

  wake(commandId: string): void {
    for (const viewer of this.#viewers.get(commandId) ?? []) {
      viewer.woken = true;
      viewer.wake?.();
    }
  }

  attach(commandId: string): Waker {
    const viewer: Viewer = { woken: false, wake: undefined };
    const viewers = this.#viewers.get(commandId) ?? new Set();
    viewers.add(viewer);
    this.#viewers.set(commandId, viewers);
    // A hint that is missed is made good by polling.
    if (viewers.size === 1) this.#watch.bind(commandId).catch(() => undefined);
    return {
      next: (timeoutMs, signal) => nextWake(viewer, timeoutMs, signal),
      close: () => {
        if (!viewers.delete(viewer) || viewers.size > 0) return;
        this.#viewers.delete(commandId);
        this.#watch.unbind(commandId).catch(() => undefined);
      },
    };
  }

  /** Commands that have viewers. */
  get size(): number {
    return this.#viewers.size;
  }

  close(): Promise<void> {
    return this.#watch.close();
  }
}

function nextWake(viewer: Viewer, timeoutMs: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      viewer.wake = undefined;
      viewer.woken = false;
      resolve();
    };
    const timer = setTimeout(done, timeoutMs);
    signal.addEventListener("abort", done, { once: true });
    viewer.wake = done;
    if (viewer.woken || signal.aborted) done();
  });
}
