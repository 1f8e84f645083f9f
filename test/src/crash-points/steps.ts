import fs from "node:fs";
import { Socket } from "node:net";
import { plan as planSchema, type Order, type Plan, type Point, type Side } from "./plan.ts";

// The originals: what is counted must not count its own writing.
const { openSync, closeSync, readFileSync, renameSync, statSync, writeSync } = fs;

const shared = new Int32Array(new SharedArrayBuffer(4));

/** The connections of a process are gone: what a cut looks like to whoever waits for an answer. */
export class ConnectionCut extends Error {
  override readonly name = "ConnectionCut";
}

/** A step that has been begun; `done` is told once its effect is out of the process's hands. */
export interface Begun {
  /** True when the connections were cut here: the answer is lost. */
  done(): boolean;
}

/** Counts the durable steps of this process and does at one of them what its plan says. */
export class Steps {
  readonly #order: Order;
  readonly #trace: number;
  #planChanged = 0;
  #plan: Plan | undefined;
  #counts = new Map<string, number>();
  /** Work of our own is under way: nothing of it counts. */
  #own = false;
  readonly #taken: boolean;

  constructor(order: Order, o: { takePlan: boolean }) {
    this.#order = order;
    this.#trace = openSync(order.trace, "a");
    this.#readPlan();
    // What is taken away is for this process alone.
    this.#taken = o.takePlan && this.#plan !== undefined;
    if (this.#plan !== undefined && this.#taken)
      renameSync(order.plan, `${order.plan}.${this.#plan.id}.taken`);
  }

  begin(step: string): Begun {
    if (this.#own) return { done: () => false };
    this.#own = true;
    this.#readPlan();
    writeSync(this.#trace, `step ${step}\n`);
    this.#own = false;
    const count = (this.#counts.get(step) ?? 0) + 1;
    this.#counts.set(step, count);
    this.#at(step, count, "before");
    return { done: () => this.#at(step, count, "after") };
  }

  #at(step: string, count: number, side: Side): boolean {
    const plan = this.#plan;
    const isHere = (point: Point): boolean =>
      point.step === step && point.nth === count && point.side === side;
    const index = plan?.points.findIndex(isHere) ?? -1;
    const point = plan?.points[index];
    if (plan === undefined || point === undefined) return false;
    this.#plan = undefined;
    writeSync(this.#trace, `hit ${plan.id} ${index}\n`);
    switch (point.how) {
      case "kill":
        process.kill(process.pid, "SIGKILL");
        Atomics.wait(shared, 0, 0);
        return false;
      case "stop":
        process.kill(process.pid, "SIGSTOP");
        return false;
      case "cut":
        cutConnections();
        return true;
    }
  }

  #readPlan(): void {
    if (this.#taken) return;
    const changed = statSync(this.#order.plan, { throwIfNoEntry: false })?.mtimeMs ?? 0;
    if (changed === this.#planChanged) return;
    this.#planChanged = changed;
    this.#counts = new Map();
    const fd = changed === 0 ? undefined : openSync(this.#order.plan, "r");
    this.#plan = fd === undefined ? undefined : planSchema.parse(JSON.parse(readFileSync(fd, "utf8")));
    if (fd !== undefined) closeSync(fd);
  }
}

/** Destroys every connection to another process, without a word to the other side. */
function cutConnections(): void {
  const handles: unknown = Reflect.apply(
    Reflect.get(process, "_getActiveHandles") as () => unknown,
    process,
    [],
  );
  if (!Array.isArray(handles)) throw new Error("this version of Node.js does not tell its handles");
  for (const handle of handles) {
    // Outgoing only: requests that others sent here are not cut.
    if (handle instanceof Socket && outgoing.has(handle)) handle.resetAndDestroy();
  }
}

const outgoing = new WeakSet<Socket>();

/** Remembers which sockets this process opened. */
export function watchSockets(): void {
  const connect = Reflect.get(Socket.prototype, "connect") as (...args: unknown[]) => Socket;
  Reflect.set(Socket.prototype, "connect", function connectWatched(this: Socket, ...args: unknown[]): Socket {
    outgoing.add(this);
    return Reflect.apply(connect, this, args);
  });
}
