import { takeLock } from "../system/lock.ts";
import type { Word } from "./detach.ts";
import { chosenFolder } from "./folder.ts";
import { runHere } from "./run-here.ts";

// The process behind `./scripts/run --detach`: it tells its launcher how the start goes, then stays alone.
const folder = chosenFolder(process.env);

function tell(word: Word): void {
  if (word.kind === "line") process.stdout.write(`${new Date().toISOString()} ${word.line}\n`);
  // The launcher may have been killed: nobody is left to tell, and the system runs on.
  if (process.connected) process.send?.(word, () => undefined);
}

const say = (line: string): void => tell({ kind: "line", line });
const screen = { say, status: () => undefined, end: () => undefined };

const taken = takeLock(folder.lock);
if ("holder" in taken) tell({ kind: "taken" });
else {
  process.exitCode = await runHere({
    folder,
    env: process.env,
    screen,
    lock: taken.lock,
    onReady: () => tell({ kind: "ready" }),
    onFailed: (reason) => tell({ kind: "failed", reason }),
  });
}
if (process.connected) process.disconnect();
