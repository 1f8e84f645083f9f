import { createMetrics } from "@muster/telemetry/metrics";
import { openLogger } from "@muster/telemetry/logger";
import { expect } from "chai";
import { startJobs } from "./job.ts";

const parts = () => ({
  logger: openLogger({ service: "test", level: "silent" }),
  metrics: createMetrics({ service: "test" }),
});

describe("scheduled work", () => {
  it("never runs over itself, goes on after a failure, and has ended when stop resolves", async () => {
    let running = 0;
    let most = 0;
    let runs = 0;
    const enough = deferred();
    const jobs = startJobs(
      [
        {
          name: "work",
          everyMs: 0,
          async run() {
            most = Math.max(most, ++running);
            await new Promise((resolve) => setImmediate(resolve));
            running -= 1;
            if (++runs === 20) enough.resolve();
            if (runs % 2 === 0) throw new Error("now and then");
          },
        },
      ],
      parts(),
    );
    await enough.promise;
    await jobs.stop();
    const after = runs;
    await new Promise((resolve) => setImmediate(resolve));
    expect([most, running, runs]).to.deep.equal([1, 0, after]);
  });

  it("is told to stop while it runs", async () => {
    const begun = deferred();
    let told = false;
    const jobs = startJobs(
      [
        {
          name: "long",
          everyMs: 60_000,
          run: (signal) =>
            new Promise((resolve) => {
              signal.addEventListener("abort", () => {
                told = true;
                resolve();
              });
              begun.resolve();
            }),
        },
      ],
      parts(),
    );
    await begun.promise;
    await jobs.stop();
    expect(told).to.equal(true);
  });
});

function deferred() {
  let resolve: () => void = () => undefined;
  const promise = new Promise<void>((done) => (resolve = done));
  return { promise, resolve: () => resolve() };
}
