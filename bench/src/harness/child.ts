import { fork } from "node:child_process";
import { once } from "node:events";
import { profiled } from "./profile.ts";

/** A program of a benchmark in a process of its own, told what to do by its parent. */
export interface Child {
  readonly pid: number;
  /** Calls a function that the program has given to `serveParent`; fails with what it threw. */
  call(name: string, argument?: unknown): Promise<unknown>;
  stop(): Promise<void>;
}

interface Call {
  readonly id: number;
  readonly name: string;
  readonly argument: unknown;
}

interface Answer {
  readonly id: number;
  readonly value?: unknown;
  readonly error?: string;
}

/** Starts a compiled program beside the caller and waits until it has called `serveParent`. */
export async function startChild(program: URL, env: Readonly<Record<string, string>>): Promise<Child> {
  const child = fork(program, {
    env: { PATH: process.env.PATH, ...profiled(), ...env },
    stdio: ["ignore", "inherit", "inherit", "ipc"],
  });
  const waiting = new Map<number, (answer: Answer) => void>();
  let last = 0;
  const failAll = (): void => {
    for (const [id, settle] of waiting) settle({ id, error: `${program.pathname} has ended` });
    waiting.clear();
  };
  child.on("exit", failAll);
  child.on("message", (message) => {
    const answer = message as Answer;
    waiting.get(answer.id)?.(answer);
    waiting.delete(answer.id);
  });
  const answerTo = (id: number): Promise<unknown> =>
    new Promise((resolve, reject) => {
      waiting.set(id, ({ value, error }) =>
        error === undefined ? resolve(value) : reject(new Error(error)),
      );
    });
  await answerTo(0);
  return {
    pid: child.pid ?? 0,
    call: (name, argument) => {
      const answer = answerTo(++last);
      child.send({ id: last, name, argument } satisfies Call);
      return answer;
    },
    stop: async () => {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const exited = once(child, "exit");
      child.kill("SIGTERM");
      await exited;
    },
  };
}

/** Answers the parent's calls from now on, and ends with it. */
export function serveParent(functions: Record<string, (argument: unknown) => Promise<unknown>>): void {
  const send = (answer: Answer): void => void process.send?.(answer);
  process.on("message", (message) => {
    const { id, name, argument } = message as Call;
    Promise.resolve()
      .then(() => functions[name]?.(argument))
      .then(
        (value) => send({ id, value }),
        (error: unknown) => send({ id, error: error instanceof Error ? (error.stack ?? "") : String(error) }),
      );
  });
  process.on("disconnect", () => process.exit(0));
  process.on("SIGTERM", () => process.exit(0));
  send({ id: 0 });
}
