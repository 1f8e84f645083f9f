import { readFileSync, watchFile } from "node:fs";

/*
 * Loaded into a process before anything else (node --import): its wall clock is wrong by as many milliseconds as the
 * file says. Monotonic time and timers stay right, as on a machine whose clock is set.
 */

const file = process.env["MUSTER_TEST_CLOCK_FILE"];
if (file !== undefined) {
  const RealDate = Date;
  let shiftMs = 0;
  const read = (): void => {
    try {
      shiftMs = Number(readFileSync(file, "utf8").trim()) || 0;
    } catch {
      shiftMs = 0;
    }
  };
  read();
  watchFile(file, { interval: 100, persistent: false }, read);
  const now = (): number => RealDate.now() + shiftMs;
  globalThis.Date = new Proxy(RealDate, {
    construct: (target, args, made) =>
      Reflect.construct(target, args.length === 0 ? [now()] : args, made) as object,
    apply: () => new RealDate(now()).toString(),
    get: (target, name, receiver): unknown => (name === "now" ? now : Reflect.get(target, name, receiver)),
  });
}
