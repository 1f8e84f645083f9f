import { createMetrics } from "@muster/telemetry/metrics";
import { expect } from "chai";
import { startJobs } from "../src/leader/job.ts";
import { silent } from "./setup.ts";

const metrics = () => createMetrics({ service: "reliability" });

describe("scheduled work", () => {
  it("that fails is tried again long before its turn, and waits for its turn once it goes through", async () => {
    const hour = 3_600_000;
    let runs = 0;
    let wentThrough = (): void => undefined;
    const through = new Promise<void>((resolve) => (wentThrough = resolve));
    const run = (): Promise<void> => {
      runs += 1;
      if (runs === 1) return Promise.reject(new Error("the broker is away"));
      wentThrough();
      return Promise.resolve();
    };
    const jobs = startJobs([{ name: "work", everyMs: hour, run }], { logger: silent, metrics: metrics() });
    await through;
    await jobs.stop();
    expect(runs).to.equal(2);
  }).timeout(30_000);
});
