import { randomUUID } from "node:crypto";
import { Writable } from "node:stream";
import { inspect } from "node:util";
import { MusterError } from "@muster/contracts/errors";
import { eventually, eventuallyHolds } from "@muster/testing/eventually";
import { openLogger } from "@muster/telemetry/logger";
import { createMetrics } from "@muster/telemetry/metrics";
import { expect } from "chai";
import { guardVault } from "../../src/vaults/guard.ts";
import type { GuardLimits } from "../../src/vaults/guard.ts";
import { newPlace, patience } from "./conformance.ts";
import { setupHashicorp } from "./houses.ts";

const wide: GuardLimits = {
  timeoutMs: 10_000,
  concurrencyMax: 32,
  waitingMax: 128,
  breaker: { failuresPercent: 50, callsMin: 5, windowMs: 60_000, probeMs: 60_000 },
};
const path = "/secret/";
const place = newPlace();
const fields = { value: "canary-4ac8" };

async function setup(limits: Partial<GuardLimits> = {}) {
  const house = await setupHashicorp();
  const metrics = createMetrics({ service: "secrets" });
  const lines: string[] = [];
  const destination = new Writable({
    write(chunk: Buffer, _encoding, done) {
      lines.push(chunk.toString());
      done();
    },
  });
  const logger = openLogger({ service: "secrets", level: "debug", destination });
  const guard = guardVault(house.vault, { limits: { ...wide, ...limits }, logger, metrics });
  await guard.write(place, fields, patience());
  return {
    ...house,
    guard,
    lines,
    metrics,
    async value(name: string, labels: Record<string, string> = {}): Promise<number | undefined> {
      const metric = await metrics.registry.getSingleMetric(`muster_secrets_vault_${name}`)?.get();
      const fits = (one: { labels: Record<string, unknown> }) =>
        Object.entries(labels).every(([label, value]) => one.labels[label] === value);
      return metric?.values.find(fits)?.value;
    },
    close: async () => {
      await guard.close();
      await house.close();
    },
  };
}

async function refusalOf(work: Promise<unknown>): Promise<MusterError> {
  const thrown = await work.then(
    () => new Error("it was not refused"),
    (error: unknown) => error,
  );
  if (thrown instanceof MusterError) return thrown;
  throw thrown instanceof Error ? thrown : new Error(String(thrown));
}
const codeOf = async (work: Promise<unknown>): Promise<string> => (await refusalOf(work)).code;

describe("the guard around a vault", () => {
  it("says what became of a call in the codes of the contract, and counts it", async () => {
    const { guard, server, value, close } = await setup({
      breaker: { ...wide.breaker, callsMin: 1_000 },
    });
    expect(await guard.read(place, patience())).to.deep.equal(fields);
    expect(await codeOf(guard.read(newPlace(), patience()))).to.equal("SECRET_VERSION_NOT_FOUND");
    expect(await codeOf(guard.write(place, { value: "other" }, patience()))).to.equal("VAULT_REFUSED");
    const cases = [
      [403, "{}", "VAULT_REFUSED", "refused"],
      [503, "{}", "VAULT_UNAVAILABLE", "unavailable"],
      [200, "<html>", "VAULT_REFUSED", "garbled"],
    ] as const;
    for (const [status, body, code, outcome] of cases) {
      server.be({ kind: "status", status, body }, { path });
      expect(await codeOf(guard.read(place, patience()))).to.equal(code);
      expect(await value("calls_total", { operation: "read", outcome })).to.equal(1);
    }
    expect(await value("calls_total", { operation: "read", outcome: "ok" })).to.equal(1);
    expect(await value("calls_total", { operation: "read", outcome: "missing" })).to.equal(1);
    expect(await value("calls_total", { operation: "write", outcome: "conflict" })).to.equal(1);
    await close();
  });

  it("says when to come again, as the vault said it or by itself", async () => {
    const { guard, server, close } = await setup({ breaker: { ...wide.breaker, callsMin: 1_000 } });
    server.be({ kind: "status", status: 429, headers: { "retry-after": "9" } }, { path });
    expect((await refusalOf(guard.read(place, patience()))).retryAfterMs).to.equal(9_000);
    server.be({ kind: "status", status: 503 }, { path });
    expect((await refusalOf(guard.read(place, patience()))).retryAfterMs).to.be.greaterThan(0);
    await close();
  });

  it("ends a call that hangs, at the vault too", async () => {
    const { guard, server, value, close } = await setup({ timeoutMs: 100 });
    server.be({ kind: "silent" }, { path });
    const refused = await refusalOf(guard.read(place, patience()));
    expect(refused.code).to.equal("VAULT_UNAVAILABLE");
    expect(refused.retryAfterMs).to.be.greaterThan(0);
    await eventuallyHolds(() => expect(server.state.held).to.equal(0));
    await eventuallyHolds(async () => expect(await value("in_flight")).to.equal(0));
    expect(await value("calls_total", { operation: "read", outcome: "timeout" })).to.equal(1);
    await close();
  });

  it("ends a call that its caller gives up, and does not hold it against the vault", async () => {
    const { guard, server, value, close } = await setup({ breaker: { ...wide.breaker, callsMin: 1 } });
    server.be({ kind: "silent" }, { path });
    for (let i = 0; i < 10; i++) {
      const given = new AbortController();
      const code = codeOf(guard.read(place, given.signal));
      await eventuallyHolds(() => expect(server.state.held).to.equal(1));
      given.abort();
      expect(await code).to.equal("VAULT_UNAVAILABLE");
      await eventuallyHolds(() => expect(server.state.held).to.equal(0));
    }
    expect(await value("calls_total", { operation: "read", outcome: "given_up" })).to.equal(10);
    expect(await value("breaker_state", { state: "closed" })).to.equal(1);
    await close();
  });

  it("opens for outages, garbage and time-outs, and asks the vault no more", async () => {
    const failing = [
      { kind: "status", status: 503 },
      { kind: "status", status: 200, body: "<html>" },
      { kind: "cut" },
      { kind: "silent" },
    ] as const;
    for (const mood of failing) {
      const { guard, server, value, close } = await setup({ timeoutMs: 300 });
      server.be(mood, { path });
      for (let i = 0; i < 4; i++) await codeOf(guard.read(place, patience()));
      expect(await value("breaker_state", { state: "open" }), mood.kind).to.equal(1);
      expect(await value("calls_total", { operation: "read", outcome: "open" })).to.equal(undefined);
      const asked = server.state.asked.length;
      const refused = await refusalOf(guard.read(place, patience()));
      expect(refused.code).to.equal("VAULT_UNAVAILABLE");
      expect(refused.retryAfterMs).to.be.within(1, wide.breaker.probeMs);
      expect(server.state.asked.length).to.equal(asked);
      expect(await value("calls_total", { operation: "read", outcome: "open" })).to.equal(1);
      await close();
    }
  });

  it("does not open for what is missing, in conflict or refused", async () => {
    const { guard, server, value, close } = await setup();
    for (let i = 0; i < 10; i++) {
      await codeOf(guard.read(newPlace(), patience()));
      await codeOf(guard.write(place, { value: "other" }, patience()));
    }
    server.be({ kind: "status", status: 403 }, { path });
    for (let i = 0; i < 20; i++) await codeOf(guard.read(place, patience()));
    expect(await value("breaker_state", { state: "closed" })).to.equal(1);
    await close();
  });

  it("tries the vault by one call after its pause, and goes on when that is answered", async () => {
    const { guard, server, value, lines, close } = await setup({ breaker: { ...wide.breaker, probeMs: 50 } });
    server.be({ kind: "status", status: 503 }, { path });
    for (let i = 0; i < 5; i++) await codeOf(guard.read(place, patience()));
    await eventuallyHolds(async () =>
      expect(await value("breaker_state", { state: "half_open" })).to.equal(1),
    );
    server.be({ kind: "silent" }, { path });
    const given = new AbortController();
    const probe = codeOf(guard.read(place, given.signal));
    await eventuallyHolds(() => expect(server.state.held).to.equal(1));
    const asked = server.state.asked.length;
    const beside = await refusalOf(guard.read(place, patience()));
    expect(beside.code).to.equal("VAULT_UNAVAILABLE");
    expect(beside.retryAfterMs).to.be.greaterThan(0);
    expect(server.state.asked.length, "calls beside the probe").to.equal(asked);
    // A probe that nobody waited for has shown nothing.
    given.abort();
    await probe;
    expect(await value("breaker_state", { state: "closed" })).to.equal(0);
    server.be({ kind: "well" });
    await eventuallyHolds(async () => expect(await guard.read(place, patience())).to.deep.equal(fields));
    expect(await value("breaker_state", { state: "closed" })).to.equal(1);
    const states = lines.flatMap((line) => /"state":"([a-z]+)"/.exec(line)?.[1] ?? []);
    expect(states[0]).to.equal("open");
    expect(states.at(-1)).to.equal("closed");
    await close();
  });

  it("lets so many in at once and so many wait, and refuses the rest at once", async () => {
    const { guard, server, value, close } = await setup({ concurrencyMax: 3, waitingMax: 4 });
    server.be({ kind: "silent" }, { path });
    const given = new AbortController();
    const taken = Array.from({ length: 7 }, () => codeOf(guard.read(place, given.signal)));
    await eventuallyHolds(() => expect(server.state.held).to.equal(3));
    expect(await value("in_flight")).to.equal(3);
    const refused = await refusalOf(guard.read(place, patience()));
    expect(refused.code).to.equal("VAULT_UNAVAILABLE");
    expect(refused.retryAfterMs).to.be.greaterThan(0);
    expect(await value("calls_total", { operation: "read", outcome: "busy" })).to.equal(1);
    expect(server.state.held).to.equal(3);
    given.abort();
    expect(await Promise.all(taken)).to.deep.equal(Array(7).fill("VAULT_UNAVAILABLE"));
    await eventuallyHolds(async () => expect(await value("in_flight")).to.equal(0));
    server.be({ kind: "well" });
    const read = await Promise.all(Array.from({ length: 7 }, () => guard.read(place, patience())));
    expect(read).to.deep.equal(Array(7).fill(fields));
    await close();
  });

  it("holds the place of a call until the vault has ended it", async () => {
    const { vault, metrics, value, close } = await setup();
    let release: (() => void) | undefined;
    const released = new Promise<void>((resolve) => (release = resolve));
    // It hears no signal.
    const deaf = { ...vault, read: () => released.then(() => fields) };
    const logger = openLogger({ service: "secrets", level: "silent" });
    const limits = { ...wide, timeoutMs: 50, concurrencyMax: 1, waitingMax: 0 };
    const guard = guardVault(deaf, { limits, logger, metrics });
    expect(await codeOf(guard.read(place, patience()))).to.equal("VAULT_UNAVAILABLE");
    expect(await value("calls_total", { operation: "read", outcome: "timeout" })).to.equal(1);
    expect(await codeOf(guard.read(place, patience()))).to.equal("VAULT_UNAVAILABLE");
    expect(await value("calls_total", { operation: "read", outcome: "busy" })).to.equal(1);
    expect(await value("in_flight")).to.equal(1);
    release?.();
    await eventuallyHolds(async () => expect(await value("in_flight")).to.equal(0));
    expect(await guard.read(place, patience())).to.deep.equal(fields);
    await close();
  });

  it("gives the places of calls that were given up to who waits", async () => {
    const { guard, server, close } = await setup({ concurrencyMax: 1, waitingMax: 10 });
    server.be({ kind: "silent" }, { path, calls: 1 });
    const given = new AbortController();
    const stuck = codeOf(guard.read(place, given.signal));
    await eventuallyHolds(() => expect(server.state.held).to.equal(1));
    const waiting = Array.from({ length: 5 }, () => guard.read(place, patience()));
    given.abort();
    expect(await stuck).to.equal("VAULT_UNAVAILABLE");
    expect(await Promise.all(waiting)).to.deep.equal(Array(5).fill(fields));
    await close();
  });

  it("is well when the vault can be asked, and says why where it cannot", async () => {
    const { guard, server, close } = await setup({ breaker: { ...wide.breaker, callsMin: 3, probeMs: 50 } });
    expect((await guard.health()).ok).to.equal(true);
    server.vault.sealed = true;
    for (let i = 0; i < 3; i++) {
      const sick = await guard.health();
      expect(sick.ok).to.equal(false);
      expect(sick.reason).to.match(/sealed|left alone/);
    }
    server.vault.sealed = false;
    // No caller is needed to find that it is back.
    await eventually(async () => (await guard.health()).ok);
    expect(await guard.read(place, patience())).to.deep.equal(fields);
    await close();
  });

  it("looks at the vault once for all who ask for its health, and although its places are taken", async () => {
    const { guard, server, close } = await setup({ concurrencyMax: 1, waitingMax: 0 });
    server.be({ kind: "silent" }, { path: "/secret/data/muster/acme" });
    const given = new AbortController();
    const stuck = codeOf(guard.read(place, given.signal));
    await eventuallyHolds(() => expect(server.state.held).to.equal(1));
    const looks = () => server.state.asked.filter((asked) => asked.path === "/v1/sys/health").length;
    const before = looks();
    const found = await Promise.all(Array.from({ length: 20 }, () => guard.health()));
    expect(found.every(({ ok }) => ok)).to.equal(true);
    expect(looks() - before).to.equal(1);
    given.abort();
    await stuck;
    await close();
  });

  it("lets calls end before it closes, and answers none afterwards", async () => {
    const { guard, close } = await setup();
    const reads = Array.from({ length: 20 }, () => guard.read(place, patience()));
    const closing = guard.close();
    expect(await codeOf(guard.read(place, patience()))).to.equal("VAULT_UNAVAILABLE");
    expect(await Promise.all(reads)).to.deep.equal(Array(20).fill(fields));
    await closing;
    expect((await guard.health()).ok).to.equal(false);
    await close();
  });

  it("has neither material nor tokens in errors, log lines and metrics", async () => {
    const { guard, server, metrics, lines, close } = await setup({ timeoutMs: 200 });
    const thrown: unknown[] = [];
    const echo = JSON.stringify({ errors: [fields.value], data: { data: { value: fields.value } } });
    const moods = [
      { kind: "status", status: 200, body: echo },
      { kind: "status", status: 400, body: echo },
      { kind: "status", status: 404, body: echo },
      { kind: "silent" },
      { kind: "truncated" },
    ] as const;
    for (const mood of moods) {
      server.be(mood, { path });
      thrown.push(await guard.write(place, fields, patience()).catch((error: unknown) => error));
      thrown.push(await guard.read(place, patience()).catch((error: unknown) => error));
    }
    const all =
      inspect(thrown, { depth: Infinity, showHidden: true }) +
      lines.join("") +
      (await metrics.registry.metrics());
    const tokens = server.state.asked.flatMap(({ headers }) => headers["x-vault-token"] ?? []);
    expect(tokens.length).to.be.greaterThan(5);
    for (const secret of ["canary", ...tokens]) expect(all).not.to.include(secret);
    await close();
  });

  it("tells of a defect where it was, and not what it said", async () => {
    const words = `canary-${randomUUID()}`;
    const { vault, close } = await setup();
    const broken = { ...vault, read: () => Promise.reject(new TypeError(words)) };
    const logger = openLogger({ service: "secrets", level: "silent" });
    const guard = guardVault(broken, {
      limits: wide,
      logger,
      metrics: createMetrics({ service: "secrets" }),
    });
    const refused = await refusalOf(guard.read(place, patience()));
    expect(refused.code).to.equal("INTERNAL");
    const told = inspect(refused, { depth: Infinity, showHidden: true });
    expect(told).to.include("TypeError").and.include("guard.int.test").and.not.include(words);
    await close();
  });
});
