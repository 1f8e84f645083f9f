import { writeFileSync } from "node:fs";
import { Session } from "node:inspector";
import { basename, dirname, join } from "node:path";

/** Imported before a program: SIGUSR2 starts a CPU profile, the next one writes it. */
const folder = process.env.MUSTER_BENCH_PROFILES ?? ".";
const entry = process.argv[1] ?? "node";
const name = process.env.MUSTER_BENCH_PROFILE_NAME ?? `${basename(dirname(entry))}-${basename(entry, ".js")}`;
const session = new Session();
session.connect();
let running = false;
process.on("SIGUSR2", () => {
  if (!running) {
    running = true;
    session.post("Profiler.enable");
    session.post("Profiler.start");
    return;
  }
  running = false;
  session.post("Profiler.stop", (_error, { profile }) => {
    writeFileSync(join(folder, `${name}-${process.pid}.cpuprofile`), JSON.stringify(profile));
  });
});
