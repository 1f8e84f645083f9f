import { MusterError } from "@muster/contracts/errors";
import type { Lock } from "../system/lock.ts";
import { signal as sendSignal } from "../system/process-table.ts";
import type { RunFolder } from "./folder.ts";
import { leftoversOf } from "./leftovers.ts";
import { describeRun } from "./run-file.ts";
import type { RunFile } from "./run-file.ts";
import { showStatus } from "./status.ts";
import type { Screen } from "./status.ts";
import { System } from "./system.ts";

export interface RunHereOptions {
  readonly folder: RunFolder;
  readonly env: NodeJS.ProcessEnv;
  readonly screen: Screen;
  readonly lock: Lock;
  readonly onReady?: (run: RunFile) => void;
  readonly onFailed?: (reason: string) => void;
}

const exitBySignal = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;
type StopSignal = keyof typeof exitBySignal;

/** The first signal asks for a stop; the second cuts everything and leaves. */
function onStopSignals(folder: RunFolder, screen: Screen, stop: (name: StopSignal) => void): () => void {
  let asked = false;
  const handle = (name: StopSignal): void => {
    if (!asked) {
      asked = true;
      return stop(name);
    }
    screen.end();
    screen.say("cutting everything");
    for (const entry of leftoversOf(folder)) sendSignal(entry, "SIGKILL");
    process.exit(exitBySignal[name]);
  };
  const names = Object.keys(exitBySignal) as StopSignal[];
  for (const name of names) process.on(name, handle);
  return () => {
    for (const name of names) process.removeListener(name, handle);
  };
}

/** Runs the system in this process until a signal; answers the exit code. */
export async function runHere(o: RunHereOptions): Promise<number> {
  const { folder, env, screen, lock } = o;
  const system = new System({ folder, env, say: screen.say });
  const ended = new AbortController();
  let stoppedBy: StopSignal | undefined;
  const unwatch = onStopSignals(folder, screen, (name) => {
    stoppedBy = name;
    ended.abort();
    screen.end();
    screen.say("stopping: draining what runs; once more to cut");
    void system.stop();
  });
  let ready = false;
  let code = 0;
  const onCrash = (error: unknown): void => {
    screen.say(
      `an error of the supervisor itself: ${error instanceof Error ? (error.stack ?? "") : String(error)}`,
    );
    code = 1;
    ended.abort();
  };
  process.on("uncaughtException", onCrash);
  process.on("unhandledRejection", onCrash);
  try {
    const run = await system.start();
    ready = true;
    if (stoppedBy === undefined) {
      screen.say("");
      for (const line of describeRun(run)) screen.say(line);
      o.onReady?.(run);
      await untilStopped(system, screen, ended.signal);
    }
  } catch (error) {
    code = stoppedBy === undefined ? 1 : exitBySignal[stoppedBy];
    const reason = reasonOf(error);
    if (stoppedBy === undefined) screen.say(`could not start: ${reason}\nlogs are in ${folder.logs}`);
    await system.stop();
    o.onFailed?.(stoppedBy === undefined ? reason : "stopped while it started");
  }
  await system.stop();
  lock.release();
  unwatch();
  process.removeListener("uncaughtException", onCrash);
  process.removeListener("unhandledRejection", onCrash);
  screen.end();
  if (ready) screen.say("stopped; nothing is left running");
  return code;
}

function reasonOf(error: unknown): string {
  if (error instanceof MusterError) return `${error.code}: ${error.message}`;
  return error instanceof Error ? error.message : String(error);
}

async function untilStopped(system: System, screen: Screen, ended: AbortSignal): Promise<void> {
  const stopped = new Promise<void>((resolve) => {
    if (ended.aborted) resolve();
    // A timer keeps the process alive; children and sockets alone might not.
    const alive = setInterval(() => undefined, 60_000);
    ended.addEventListener("abort", () => (clearInterval(alive), resolve()), { once: true });
  });
  const { client } = system;
  if (client !== undefined) void showStatus(screen, () => system.processes(), client, ended);
  await stopped;
}
