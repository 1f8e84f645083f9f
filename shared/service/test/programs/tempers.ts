import { createServer } from "node:net";
import { once } from "../../src/closing.ts";
import { startService } from "../../src/start.ts";
import { choice, integer, text } from "../../src/settings.ts";

const settings = {
  MUSTER_TEMPER: choice(
    [
      "good",
      "open-fails",
      "address-in-use",
      "stuck-close",
      "dies",
      "throws",
      "rejects",
      "never-opens",
      "slow-open",
    ],
    { help: "How this program behaves", default: "good" },
  ),
  MUSTER_BUSY_PORT: integer({ help: "A port in use", min: 1, max: 65_535, default: 1 }),
  MUSTER_TEST_SECRET: text({ help: "Never shown", secret: true, default: "canary" }),
};

/** A service of a chosen temper: the life cycle is tested from outside, by signals and exit codes. */
await startService({ name: "tempers", settings, env: process.env, argv: process.argv }, async (service) => {
  const say = (what: string) => process.stdout.write(`${what}\n`);
  const resource = (name: string, stuck = false) => ({
    close: once(async () => {
      say(`closed ${name}`);
      if (stuck) await new Promise<void>(() => undefined);
    }),
  });
  const temper = service.config.MUSTER_TEMPER;
  service.own("first", resource("first"), () => ({ ok: true }));
  service.own("second", resource("second", temper === "stuck-close"), () => ({ ok: true }));
  service.draining.addEventListener("abort", () => say("draining"));

  if (temper === "open-fails") throw new Error("the database does not answer");
  if (temper === "address-in-use") {
    await new Promise<void>((resolve, reject) => {
      const server = createServer().once("error", reject);
      server.listen(service.config.MUSTER_BUSY_PORT, "127.0.0.1", () => resolve());
    });
  }
  if (temper === "never-opens") await new Promise<void>(() => undefined);
  if (temper === "slow-open") {
    await new Promise<void>((resolve) => service.draining.addEventListener("abort", () => resolve()));
    service.own("late", resource("late"));
    say("went on");
  }
  if (temper === "dies") setImmediate(() => service.fail(new Error("the connection is gone for good")));
  if (temper === "throws") {
    setImmediate(() => {
      throw new Error("a defect");
    });
  }
  if (temper === "rejects") void Promise.reject(new Error("a forgotten rejection"));
});
