import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import { after, before, describe, it } from "mocha";
import { z } from "zod";
import { eventually, eventuallyHolds } from "@muster/testing/eventually";
import { openModel } from "../model/model.ts";
import { freePort, type ManagedProcess } from "../processes.ts";
import { openSystem, serviceNames, type System } from "../system.ts";
import { openBalancer, replicaOf } from "./replicas.ts";
import { counting, isFine, isRetriable503, look, metricOf, type Seen } from "./watching.ts";

const lostAfterMs = 3_000;
const env = {
  gateway: { MUSTER_GATEWAY_API_KEY_TTL_MS: "1000" },
  reliability: {
    MUSTER_RELIABILITY_SWEEP_INTERVAL_MS: "1000",
    MUSTER_RELIABILITY_AUDIT_INTERVAL_MS: "1000",
    MUSTER_RELIABILITY_HEARTBEAT_MS: "500",
    MUSTER_RELIABILITY_SUSPECT_AFTER_MS: "1500",
    MUSTER_RELIABILITY_LOST_AFTER_MS: String(lostAfterMs),
  },
  "vm-ops": { MUSTER_RELIABILITY_HEARTBEAT_MS: "500" },
};
const agentsMax = 6;
const logged = z.object({ time: z.union([z.string(), z.number()]), msg: z.string().default("") });

describe("services that go and come", function () {
  this.timeout(240_000);
  let system: System;
  let vm: string;
  const replicas: ManagedProcess[] = [];

  before(async () => {
    system = await openSystem({ env });
    vm = await system.registerVm("rolling", 8);
    await system.startAgent({ vmUuids: [vm], name: "rolling" });
  });
  after(async () => {
    await Promise.all(replicas.map((replica) => replica.stop()));
    await system?.close();
  });

  /** Steady load under a model while `work` goes on; every request is noted, none is sent again by its client. */
  async function underLoad(
    baseUrl: string,
    work: () => Promise<void>,
  ): Promise<{ seen: Seen[]; faults: string[] }> {
    const seen: Seen[] = [];
    const model = openModel(system, { fetch: counting(baseUrl, seen) });
    let over = false;
    const worker = async (): Promise<void> => {
      while (!over) await model.accept({ vmUuid: vm, stdoutBytes: 50 });
    };
    const load = Promise.all([worker(), worker()]);
    await eventuallyHolds(() => expect(model.entries.length).to.be.greaterThan(10));
    await work().finally(() => (over = true));
    await load;
    const sent = [...seen];
    return { seen: sent, faults: await model.check() };
  }

  /** Stops it as an operator's rollout does and starts it again; when it was away. */
  async function restart(process: ManagedProcess): Promise<{ from: number; to: number }> {
    const from = performance.now();
    expect(await process.stop("SIGTERM"), `${process.name} exits cleanly`).to.equal(0);
    process.start();
    await process.ready();
    return { from, to: performance.now() };
  }

  const wordsOf = (seen: readonly Seen[]) =>
    seen.map(({ what, status, code }) => `${what}: ${status} ${code}`);

  it("keep those who hold a token while auth is away, know a key no longer than they say, and never take 503 for 401", async () => {
    const token = await tokenOf(system);
    const by = (bearer: string) => look(system.gatewayUrl, bearer, "list");
    expect([(await by(token)).status, (await by(system.apiKey)).status]).to.deep.equal([200, 200]);
    await system.services.auth.stop("SIGKILL");
    const refused = await eventually(async () => {
      const seen = await by(system.apiKey);
      return seen.status === 200 ? undefined : seen;
    });
    expect(isRetriable503(refused), JSON.stringify(refused)).to.equal(true);
    expect(refused.code).to.equal("DEPENDENCY_UNAVAILABLE");
    expect((await look(system.gatewayUrl, token, "accept", vm)).status).to.equal(202);
    const forged = `${token.slice(0, -8)}AAAAAAAA`;
    expect((await by(forged)).status).to.equal(401);
    system.services.auth.start();
    await system.services.auth.ready();
    await eventuallyHolds(async () => expect((await by(system.apiKey)).status).to.equal(200));
  });

  it("run every command while reliability is away, and lose no agent that it could not hear", async () => {
    const model = openModel(system);
    const { reliability } = system.services;
    await reliability.stop("SIGKILL");
    const awayFrom = performance.now();
    expect(isRetriable503(await look(system.gatewayUrl, system.apiKey, "agents"))).to.equal(true);
    while (performance.now() - awayFrom < 5 * lostAfterMs) {
      await model.accept({ vmUuid: vm, stdoutBytes: 100 });
      await model.started(model.entries.at(-1)!);
    }
    reliability.start();
    await reliability.ready();
    expect(await model.check()).to.deep.equal([]);
    expect(await metricOf(reliability, "muster_agents_lost_total")).to.equal(0);
  });

  it("answer nothing but success or a retriable 503 while each is restarted in turn", async () => {
    const away: { from: number; to: number }[] = [];
    const { seen, faults } = await underLoad(system.gatewayUrl, async () => {
      for (const name of serviceNames) {
        const times = await restart(system.services[name]);
        if (name === "gateway") away.push(times);
      }
    });
    expect(faults).to.deep.equal([]);
    const bad = seen.filter((one) => !isFine(one));
    // There is one gateway: while it is really down, nobody answers.
    const whileDown = (one: Seen) =>
      one.status === 0 && away.some(({ from, to }) => one.at >= from && one.at <= to);
    expect(wordsOf(bad.filter((one) => !whileDown(one)))).to.deep.equal([]);
  });

  it("answer everybody while one of two of each is restarted, the gateway too", async () => {
    const port = await freePort();
    const second: Record<string, ManagedProcess> = {};
    for (const name of ["vm-ops", "reliability", "gateway"] as const) {
      const more: Record<string, string> = name === "gateway" ? { MUSTER_GATEWAY_PORT: String(port) } : {};
      second[name] = await replicaOf(system, name, more);
      replicas.push(second[name]);
    }
    const balancer = await openBalancer([system.gatewayUrl, `http://127.0.0.1:${port}`]);
    const { seen, faults } = await underLoad(balancer.url, async () => {
      for (const name of ["vm-ops", "reliability", "gateway"] as const) {
        await restart(system.services[name]);
        await restart(second[name]!);
      }
      // The model reads the audits of the first.
      await second.reliability?.stop();
    });
    await balancer.close();
    expect(faults).to.deep.equal([]);
    expect(wordsOf(seen.filter((one) => !isFine(one)))).to.deep.equal([]);
  });

  it("take back a herd of agents, each at its own time, with no command refused", async () => {
    const model = openModel(system);
    const herd = await Promise.all(
      Array.from({ length: agentsMax }, async (_, n) => {
        const vmUuid = await system.registerVm(`herd ${n}`);
        return { vmUuid, agent: await system.startAgent({ vmUuids: [vmUuid], name: `herd-${n}` }) };
      }),
    );
    // Held while the broker forgets them: all find themselves cut off, and come back, at the same moment.
    for (const { agent } of herd) agent.process.signal("SIGSTOP");
    let closed = 0;
    // Each has two; the broker lists new ones only after a while.
    await eventuallyHolds(async () => {
      closed += await system.vhost.closeConnections("agent ");
      expect(closed).to.be.at.least(2 * agentsMax);
    }, 30_000);
    for (const { vmUuid } of herd) await model.accept({ vmUuid, stdoutBytes: 100 });
    const sinceMs = Date.now();
    for (const { agent } of herd) agent.process.signal("SIGCONT");
    expect(await model.check()).to.deep.equal([]);
    const back = await Promise.all(
      herd.map(async (_, n) => {
        const lines = (await readFile(join(system.folder, `herd-${n}.log`), "utf8")).trim().split("\n");
        const times = lines
          .map((line) => logged.parse(JSON.parse(line)))
          .filter(({ msg }) => msg === "connected to the broker")
          .map(({ time }) => new Date(time).getTime())
          .filter((time) => time >= sinceMs);
        return times[0] ?? Number.NaN;
      }),
    );
    expect(back.every((time) => time >= sinceMs)).to.equal(true);
    expect(new Set(back).size, "they do not come at once").to.be.greaterThan(agentsMax / 2);
  });
});

async function tokenOf(system: System): Promise<string> {
  const headers = { authorization: `Bearer ${system.apiKey}`, "content-type": "application/json" };
  const response = await fetch(`${system.gatewayUrl}/api/v1/auth/token`, {
    method: "POST",
    headers,
    body: "{}",
  });
  const body = z.object({ data: z.object({ access_token: z.string() }) }).parse(await response.json());
  return body.data.access_token;
}
