import { spawn } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { closeSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { markerOf, openLog, tailOf } from "../system/files.ts";
import { markerVariable } from "../system/process-table.ts";
import { logFileOf } from "./folder.ts";
import type { RunFolder } from "./folder.ts";

/** What the supervisor tells its launcher until the system is ready. */
export const wordSchema = z.discriminatedUnion("kind", [
  z.object({ kind: z.literal("line"), line: z.string() }),
  z.object({ kind: z.literal("ready") }),
  z.object({ kind: z.literal("failed"), reason: z.string() }),
  z.object({ kind: z.literal("taken") }),
]);
export type Word = z.output<typeof wordSchema>;

const exitBySignal = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;

function spawnSupervisor(folder: RunFolder, env: NodeJS.ProcessEnv, logFile: string): ChildProcess {
  const output = openLog(logFile);
  try {
    return spawn(process.execPath, ["--enable-source-maps", join(import.meta.dirname, "supervisor.js")], {
      env: { ...env, [markerVariable]: markerOf(folder.root) },
      cwd: "/",
      detached: true,
      stdio: ["ignore", output, output, "ipc"],
    });
  } finally {
    closeSync(output);
  }
}

/** Starts the supervisor in a session of its own and returns when the system is ready, or has failed to be. */
export async function runDetached(
  folder: RunFolder,
  env: NodeJS.ProcessEnv,
  say: (line: string) => void,
): Promise<number | "taken"> {
  const logFile = logFileOf(folder, "supervisor");
  const child = spawnSupervisor(folder, env, logFile);
  let stoppedBy: keyof typeof exitBySignal | undefined;
  const stop = (name: keyof typeof exitBySignal): void => {
    // A second signal cuts: the supervisor counts them as well.
    stoppedBy = name;
    child.kill("SIGTERM");
  };
  const names = Object.keys(exitBySignal) as (keyof typeof exitBySignal)[];
  for (const name of names) process.on(name, stop);
  try {
    const outcome = await new Promise<number | "taken">((resolve, reject) => {
      child.once("error", reject);
      child.once("exit", (code) => {
        if (stoppedBy !== undefined) return resolve(exitBySignal[stoppedBy]);
        reject(
          new Error(
            `the supervisor ended with ${code ?? "a signal"}; the end of ${logFile}:\n${tailOf(logFile, 15)}`,
          ),
        );
      });
      child.on("message", (message) => {
        const word = wordSchema.parse(message);
        if (word.kind === "line") say(word.line);
        if (word.kind === "taken") resolve("taken");
        if (word.kind === "ready" && stoppedBy === undefined) resolve(0);
        // Its reason came as a line already; it goes by itself once everything is stopped.
        if (word.kind === "failed" && stoppedBy === undefined) resolve(1);
      });
    });
    if (outcome === 0) say("running in the background; ./scripts/run --stop stops it");
    return outcome;
  } finally {
    for (const name of names) process.removeListener(name, stop);
    if (child.connected) child.disconnect();
    child.unref();
  }
}
