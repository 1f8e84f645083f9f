import { mkdirSync } from "node:fs";
import { lockHolder, takeLock } from "../system/lock.ts";
import type { ProcessIdentity } from "../system/process-table.ts";
import { pollUntil } from "../system/wait.ts";
import { runDetached } from "./detach.ts";
import { chosenFolder } from "./folder.ts";
import type { RunFolder } from "./folder.ts";
import { parseRunOptions, usage } from "./options.ts";
import { describeRun, readRunFile } from "./run-file.ts";
import { openScreen } from "./status.ts";
import { resetSystem, stopSystem } from "./stop.ts";
import { runHere } from "./run-here.ts";

const otherStartTimeoutMs = 600_000;

/** Another launcher is at work: waits until its system is ready and says how to reach it. */
async function joinOther(
  folder: RunFolder,
  holder: ProcessIdentity,
  say: (line: string) => void,
): Promise<boolean> {
  if (readRunFile(folder.runFile) === undefined)
    say(`pid ${holder.pid} is starting Muster; waiting until it is ready`);
  const outcome = await pollUntil(
    () => {
      const run = readRunFile(folder.runFile);
      if (run !== undefined && run.supervisor.pid === holder.pid) return { run };
      return lockHolder(folder.lock)?.pid === holder.pid ? undefined : ("gone" as const);
    },
    { timeoutMs: otherStartTimeoutMs, intervalMs: 200 },
  );
  if (outcome === "gone") return false;
  if (outcome === undefined)
    throw new Error(`pid ${holder.pid} did not get ready; stop it with ./scripts/run --stop`);
  await untilReady(folder, holder);
  say(`Muster is running (pid ${holder.pid}); ./scripts/run --stop stops it`);
  for (const line of describeRun(outcome.run)) say(line);
  return true;
}

/** Its supervisor may be starting a part again that died: running means ready. */
async function untilReady(folder: RunFolder, holder: ProcessIdentity): Promise<void> {
  const ready = await pollUntil(
    async () => {
      const urls = Object.values(readRunFile(folder.runFile)?.services ?? {}).map(({ health_url: url }) =>
        url.replace(/healthz$/, "readyz"),
      );
      const answers = await Promise.all(
        urls.map((url) =>
          fetch(url).then(
            ({ ok }) => ok,
            () => false,
          ),
        ),
      );
      return (urls.length > 0 && answers.every(Boolean)) || undefined;
    },
    { timeoutMs: otherStartTimeoutMs, intervalMs: 300 },
  );
  if (ready === undefined) {
    throw new Error(
      `Muster runs (pid ${holder.pid}) but is not ready; see ${folder.logs}, or stop it with --stop`,
    );
  }
}

async function start(folder: RunFolder, env: NodeJS.ProcessEnv, detach: boolean): Promise<number> {
  const screen = openScreen(process.stdout);
  mkdirSync(folder.logs, { recursive: true, mode: 0o700 });
  for (;;) {
    const holder = lockHolder(folder.lock);
    if (holder !== undefined) {
      if (await joinOther(folder, holder, screen.say)) return 0;
      continue;
    }
    if (detach) {
      const code = await runDetached(folder, env, screen.say);
      if (code !== "taken") return code;
      continue;
    }
    const taken = takeLock(folder.lock);
    if ("holder" in taken) continue;
    return await runHere({ folder, env, screen, lock: taken.lock });
  }
}

/** `./scripts/run`: answers the exit code. */
export async function main(args: readonly string[], env: NodeJS.ProcessEnv): Promise<number> {
  const options = parseRunOptions(args);
  const folder = chosenFolder(env);
  switch (options.verb) {
    case "help":
      process.stdout.write(usage);
      return 0;
    case "stop": {
      const was = await stopSystem(folder, env);
      process.stdout.write(was ? "stopped; nothing is left running\n" : "nothing is running\n");
      return 0;
    }
    case "reset":
      await resetSystem(folder, env);
      process.stdout.write("stopped; all data of this checkout are removed\n");
      return 0;
    case "run":
      return await start(folder, env, options.detach);
  }
}
