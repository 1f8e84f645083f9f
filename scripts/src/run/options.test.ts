import { expect } from "chai";
import { openBackoff } from "./backoff.ts";
import { parseRunOptions } from "./options.ts";
import { inheritedEnvironment } from "./service-plan.ts";

describe("the options of ./scripts/run", () => {
  it("say one thing each, in any order", () => {
    expect(parseRunOptions([])).to.deep.equal({ verb: "run", detach: false });
    expect(parseRunOptions(["--detach"])).to.deep.equal({ verb: "run", detach: true });
    expect(parseRunOptions(["--stop"])).to.deep.equal({ verb: "stop", detach: false });
    expect(parseRunOptions(["--reset"])).to.deep.equal({ verb: "reset", detach: false });
    expect(parseRunOptions(["--stop", "-h"]).verb).to.equal("help");
  });

  it("are refused when they contradict each other or are unknown, with where to look", () => {
    expect(() => parseRunOptions(["--detach", "--stop"])).to.throw("exclude each other");
    expect(() => parseRunOptions(["--stop", "--reset"])).to.throw("exclude each other");
    expect(() => parseRunOptions(["--detatch"])).to.throw("--detatch; see ./scripts/run --help");
  });
});

describe("starting a process again", () => {
  it("waits longer after each short life, never longer than 15 s, and anew after a long one", () => {
    const backoff = openBackoff();
    const pauses = Array.from({ length: 12 }, () => backoff.pauseAfter(10));
    expect(pauses.slice(0, 4)).to.deep.equal([200, 400, 800, 1_600]);
    expect(Math.max(...pauses)).to.equal(15_000);
    expect(backoff.pauseAfter(60_000)).to.equal(200);
  });
});

describe("the environment of a service", () => {
  it("holds the caller's settings, without the addresses that are chosen here", () => {
    const env = inheritedEnvironment(
      {
        PATH: "/bin",
        AUTH_MODE: "shadow",
        MUSTER_VMOPS_DISPATCHED_MAX_MS: "20000",
        AMQP_URL: "amqp://x",
        DATABASE_URL: "postgres://x",
        MUSTER_INTERNAL_PORT: "1",
        MUSTER_TEST_AMQP_URL: "amqp://y",
        MUSTER_TEST_RUN: "7",
      },
      "mark",
    );
    expect(env).to.deep.equal({
      PATH: "/bin",
      AUTH_MODE: "shadow",
      MUSTER_VMOPS_DISPATCHED_MAX_MS: "20000",
      MUSTER_TEST_RUN: "7",
      MUSTER_INSTANCE: "mark",
    });
  });
});
