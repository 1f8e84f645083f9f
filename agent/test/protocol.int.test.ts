import { temporaryHome } from "./agent-side.ts";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Doorbell } from "@muster/contracts/agents";
import { MusterError } from "@muster/contracts/errors";
import { vmQueue } from "@muster/contracts/topology";
import { eventually } from "@muster/testing/eventually";
import { uuidv7 } from "@muster/contracts/ids";
import { expect } from "chai";
import { openHome } from "../src/journal/home.ts";
import { Journal } from "../src/journal/journal.ts";
import { installAgent, spawnAgent } from "./agent-process.ts";
import { setupMesh } from "./scripted-mesh.ts";

async function setup(o: Parameters<typeof setupMesh>[0] = {}) {
  const mesh = await setupMesh(o);
  const agent = await installAgent(mesh);
  const path = (name: string): string => join(agent.home, name);
  return {
    ...{ mesh, agent, path },
    lines: (name: string): string[] => readFileSync(path(name), "utf8").trim().split("\n"),
    result: async (id: string) => {
      await eventually(() => mesh.resultOf(id) !== undefined, 20_000);
      const found = mesh.resultOf(id);
      if (found === undefined) throw new Error("a result went away");
      return found;
    },
    clean: async () => {
      await agent.remove();
      await mesh.close();
    },
  };
}

const unavailable = (): MusterError => new MusterError("DEPENDENCY_UNAVAILABLE");

describe("the agent and its mesh", function () {
  this.timeout(60_000);

  it("runs a VM's commands one after another in the order of their doorbells, with result and whole output", async () => {
    const { mesh, agent, path, lines, result, clean } = await setup();
    agent.start();
    const ids: string[] = [];
    for (const n of [1, 2, 3, 4])
      ids.push(await mesh.submitScript(`echo ${n} >> ${path("order")}; echo out ${n}`));
    for (const [index, id] of ids.entries()) {
      expect(await result(id)).to.include({ outcome: "succeeded", effect: "applied" });
      await eventually(() => mesh.seen.outputEnds.has(`${id}.stdout`));
      expect(mesh.outputOf(id)).to.equal(`out ${index + 1}\n`);
    }
    expect(lines("order")).to.deep.equal(["1", "2", "3", "4"]);
    await clean();
  });

  it("lets the control lane pass a command that runs, and runs many VMs at once", async () => {
    const { mesh, agent, path, result, clean } = await setup({ vms: 4 });
    agent.start();
    const wait = `while [ ! -e ${path("go")} ]; do sleep 0.05; done`;
    const blocked = await Promise.all(mesh.vmUuids.map((_, vm) => mesh.submitScript(wait, vm)));
    const ping = await mesh.submit("ping", {});
    expect((await result(ping)).result.data).to.deep.equal({ pong: true });
    expect(mesh.seen.results).to.have.length(1);
    await eventually(() => expect(mesh.seen.heartbeats.at(-1)?.running).to.have.members(blocked));
    const go = await mesh.submit("file.put", { path: path("go"), content_base64: "" }, 0);
    await mesh.cancel(blocked[0] ?? "");
    await result(go);
    for (const id of blocked) await result(id);
    await clean();
  });

  it("starts once however often its doorbell rings, before, while and after it runs", async () => {
    const { mesh, agent, lines, path, result, clean } = await setup();
    const id = await mesh.submitScript(`echo x >> ${path("starts")}; sleep 0.5`);
    for (let n = 0; n < 10; n++) await mesh.ring(id);
    agent.start();
    await eventually(() => existsSync(path("starts")));
    for (let n = 0; n < 10; n++) await mesh.ring(id);
    await result(id);
    await mesh.ring(id);
    await result(await mesh.submitScript("true"));
    expect(lines("starts")).to.deep.equal(["x"]);
    expect(mesh.seen.claims.filter(({ command_id }) => command_id === id)).to.have.length(1);
    await clean();
  });

  it("claims again with the same nonce until somebody answers", async () => {
    const { mesh, agent, result, clean } = await setup();
    let refusals = 3;
    mesh.script.claim = (_claim, usual) => (refusals-- > 0 ? unavailable() : usual());
    agent.start();
    const id = await mesh.submitScript("true");
    await result(id);
    expect(mesh.seen.claims).to.have.length(4);
    expect(new Set(mesh.seen.claims.map(({ nonce }) => nonce)).size).to.equal(1);
    await clean();
  });

  it("waits when told to wait, forgets what is denied for good, and goes on with the next", async () => {
    const { mesh, agent, result, clean } = await setup();
    let busy = 2;
    const deniedIds: string[] = [];
    mesh.script.claim = (claim, usual) => {
      const { command_id, attempt } = claim;
      if (deniedIds.includes(command_id))
        return { outcome: "denied", command_id, attempt, reason: "gate_revoked" };
      if (busy-- > 0)
        return { outcome: "denied", command_id, attempt, reason: "vm_busy", retry_after_ms: 50 };
      return usual();
    };
    const denied = await mesh.submitScript("true");
    deniedIds.push(denied);
    const next = await mesh.submitScript("true");
    agent.start();
    await result(next);
    expect(mesh.resultOf(denied)).to.equal(undefined);
    expect(mesh.seen.claims.filter(({ command_id }) => command_id === next)).to.have.length(3);
    await clean();
  });

  it("takes up an earlier command whose doorbell was lost when a later one is told to wait for it", async () => {
    const { mesh, agent, result, clean } = await setup();
    const lost = await mesh.submitScript("true");
    const vm_uuid = mesh.vmUuids[0] ?? "";
    const queue = encodeURIComponent(vmQueue(mesh.tenantId, vm_uuid));
    await mesh.vhost.call("DELETE", `/queues/{vhost}/${queue}/contents`);
    const first: Doorbell = {
      ...{ kind: "run", command_id: lost, vm_uuid, attempt: 1, epoch: 1, lane: "work", action: "script" },
      ...{ payload_sha256: "0".repeat(64), start_within_ms: 60_000, correlation_id: `c-${lost}` },
    };
    mesh.script.claim = ({ command_id, attempt }, usual) =>
      command_id === lost || mesh.resultOf(lost) !== undefined
        ? usual()
        : { outcome: "denied", command_id, attempt, reason: "vm_busy", retry_after_ms: 50, first };
    const next = await mesh.submitScript("true");
    agent.start();
    await result(next);
    expect(mesh.resultOf(lost)).to.include({ outcome: "succeeded" });
    await clean();
  });

  it("never starts under a lease that is over: it reports the attempt abandoned, effect none", async () => {
    const { mesh, agent, path, result, clean } = await setup();
    mesh.script.leaseMs = 0;
    agent.start();
    const id = await mesh.submitScript(`touch ${path("started")}`);
    expect(await result(id)).to.include({ outcome: "abandoned", effect: "none" });
    expect(existsSync(path("started"))).to.equal(false);
    await clean();
  });

  it("stops a running command when the desired state says so, and confirms it", async () => {
    const { mesh, agent, result, clean } = await setup();
    mesh.script.leaseMs = 60_000;
    agent.start();
    const id = await mesh.submitScript("echo on; sleep 100");
    await eventually(() => mesh.outputOf(id) === "on\n");
    await mesh.cancel(id);
    expect(await result(id)).to.include({ outcome: "cancelled", effect: "unknown" });
    await clean();
  });

  it("renews its lease while the command runs and holds output back while the mesh is paused", async () => {
    const { mesh, agent, path, result, clean } = await setup();
    mesh.script.leaseMs = 600;
    mesh.script.outputPaused = true;
    agent.start();
    const id = await mesh.submitScript(`echo on; while [ ! -e ${path("go")} ]; do sleep 0.05; done`);
    await eventually(() => mesh.seen.progress.filter((one) => one === id).length >= 3);
    await mesh.submit("ping", {});
    expect(mesh.outputOf(id)).to.equal("");
    await mesh.cancel(id);
    await result(id);
    mesh.script.outputPaused = false;
    await eventually(() => mesh.outputOf(id) === "on\n");
    await clean();
  });

  it("dead-letters what it cannot read at once, and goes on", async () => {
    const { mesh, agent, result, clean } = await setup();
    agent.start();
    const queue = vmQueue(mesh.tenantId, mesh.vmUuids[0] ?? "");
    await mesh.vhost.publish({ routingKey: queue, payload: "no doorbell" });
    await result(await mesh.submitScript("true"));
    const dead: string[] = [];
    await eventually(async () => {
      dead.push(...(await mesh.vhost.take("muster.dead-letters.vm")).map(({ payload }) => payload));
      return dead.length > 0;
    });
    expect(dead).to.deep.equal(["no doorbell"]);
    await clean();
  });

  it("fails an action that none of its drivers has with ACTION_NOT_SUPPORTED's reason", async () => {
    const { mesh, agent, result, clean } = await setup();
    Object.assign(agent.env, { MUSTER_AGENT_DRIVERS: "echo" });
    agent.start();
    const id = await mesh.submit("probe", {});
    expect(await result(id)).to.include({
      outcome: "failed",
      reason: "action_not_supported",
      effect: "none",
    });
    await clean();
  });

  it("sends a result until it is acknowledged, and keeps one whose token is stale for people", async () => {
    const { mesh, agent, result, clean } = await setup();
    let refusals = 2;
    let staleId = "";
    mesh.script.result = ({ command_id, attempt }) => {
      if (command_id === staleId) return { outcome: "refused", command_id, attempt, code: "STALE_TOKEN" };
      if (refusals-- > 0) return unavailable();
      return { outcome: "stored", command_id, attempt, as: "final" };
    };
    const running = agent.start();
    await result(await mesh.submitScript("true"));
    staleId = await mesh.submitScript("true");
    await result(staleId);
    const next = await mesh.submitScript("true");
    await result(next);
    expect(mesh.seen.results.filter(({ command_id }) => command_id === staleId)).to.have.length(1);
    await running.stop();
    const journal = Journal.open(agent.home);
    expect(journal.find({ commandId: staleId, attempt: 1 })).to.include({ state: "orphaned" });
    await journal.close();
    await clean();
  });
});

describe("an agent that is killed", function () {
  this.timeout(60_000);

  it("finds its running command again: one start, one result, whole output, and nothing else claimed twice", async () => {
    const { mesh, agent, path, lines, result, clean } = await setup();
    const first = agent.start();
    const id = await mesh.submitScript(
      `echo x >> ${path("starts")}; echo before; while [ ! -e ${path("go")} ]; do sleep 0.05; done; echo after; exit 4`,
    );
    await eventually(() => mesh.outputOf(id) === "before\n");
    await first.crash();
    const put = await mesh.submit("file.put", { path: path("next"), content_base64: "" });
    agent.start();
    await eventually(() => expect(mesh.seen.heartbeats.at(-1)?.running).to.deep.equal([id]));
    expect(mesh.resultOf(put)).to.equal(undefined);
    writeFileSync(path("go"), "");
    expect((await result(id)).result.exit_code).to.equal(4);
    await result(put);
    await eventually(() => mesh.outputOf(id) === "before\nafter\n");
    expect(lines("starts")).to.deep.equal(["x"]);
    expect(mesh.seen.hellos.at(-1)?.last_generation).to.equal(1);
    expect(mesh.seen.heartbeats.at(-1)?.journal).to.include({ double_starts: 0 });
    await clean();
  });

  it("delivers what ended while it was dead, and what it could not deliver before it died", async () => {
    const { mesh, agent, path, result, clean } = await setup({ vms: 2 });
    mesh.script.result = unavailable;
    const first = agent.start();
    const ended = await mesh.submitScript("echo done; exit 5");
    const ending = await mesh.submitScript(`touch ${path("on")}; sleep 0.5; exit 6`, 1);
    await eventually(() => first.log().includes("the result was not acknowledged") && existsSync(path("on")));
    await first.crash();
    mesh.script.result = ({ command_id, attempt }) => ({
      outcome: "stored",
      command_id,
      attempt,
      as: "final",
    });
    agent.start();
    expect((await result(ended)).result.exit_code).to.equal(5);
    expect((await result(ending)).result.exit_code).to.equal(6);
    await clean();
  });

  it("at any moment: every command has one start at most and one outcome that agrees with it", async () => {
    const { mesh, agent, path, clean } = await setup({ vms: 4 });
    const ids: string[] = [];
    for (let n = 0; n < 24; n++) ids.push(await mesh.submitScript(`echo x >> ${path(`starts-${n}`)}`, n % 4));
    for (let round = 0; round < 6; round++) {
      const one = agent.start();
      const until = performance.now() + 300 + Math.random() * 700;
      await eventually(() => performance.now() > until);
      await one.crash();
    }
    agent.start();
    await eventually(() => ids.every((id) => mesh.resultOf(id) !== undefined), 30_000);
    ids.forEach((id, n) => {
      const started = existsSync(path(`starts-${n}`)) ? readFileSync(path(`starts-${n}`), "utf8") : "";
      const { outcome } = mesh.resultOf(id) ?? {};
      expect(started, `${outcome}`).to.equal(outcome === "succeeded" ? "x\n" : "");
      // Poison: two of the kills met it between what says that it starts and its start.
      expect(outcome).to.be.oneOf(["succeeded", "abandoned", "poison"]);
    });
    await clean();
  });
});

describe("a command that killed its agent twice", function () {
  this.timeout(60_000);

  it("is not started a third time by that agent, and is reported as poison", async () => {
    const { mesh, agent, path, result, clean } = await setup();
    const id = await mesh.submitScript(`touch ${path("started")}`, 0);
    const home = openHome(agent.home);
    const journal = Journal.open(agent.home);
    const key = { commandId: id, attempt: 1 };
    const [vm_uuid = ""] = mesh.vmUuids;
    const bell = { vm_uuid, epoch: 1, lane: "work", action: "script", correlation_id: "c" } as const;
    await journal.write({ kind: "received", key, bell, nonce: uuidv7() });
    await journal.write({ kind: "starting", key, fields: { crashes: 2 } });
    await journal.write({ kind: "acked", key, fields: { output_done: true } });
    await journal.close();
    await home.close();
    agent.start();
    await mesh.ring(id, { attempt: 2 });
    expect(await result(id)).to.include({ attempt: 2, outcome: "poison", effect: "unknown" });
    expect(existsSync(path("started"))).to.equal(false);
    await clean();
  });
});

describe("an agent's life", function () {
  this.timeout(60_000);

  it("survives a broker that is away: work goes on, its result comes when the broker is back", async () => {
    const { mesh, agent, path, result, clean } = await setup();
    agent.start();
    const id = await mesh.submitScript(`while [ ! -e ${path("go")} ]; do sleep 0.05; done; echo over`);
    await eventually(() => mesh.seen.heartbeats.at(-1)?.running.length === 1);
    mesh.link.refuse();
    mesh.link.cut();
    writeFileSync(path("go"), "");
    await eventually(() => existsSync(join(agent.home, "runs", `${id}.1`, "exit.json")));
    mesh.link.heal();
    await result(id);
    await result(await mesh.submitScript("true"));
    await clean();
  });

  it("stops on SIGTERM with code 0, leaves what runs, and takes it up again", async () => {
    const { mesh, agent, path, result, clean } = await setup();
    const first = agent.start();
    const id = await mesh.submitScript(`while [ ! -e ${path("go")} ]; do sleep 0.05; done; exit 9`);
    await eventually(() => mesh.seen.heartbeats.at(-1)?.running.length === 1);
    expect(await first.stop()).to.equal(0);
    expect(mesh.seen.heartbeats.at(-1)?.stopping).to.equal(true);
    expect(mesh.resultOf(id)).to.equal(undefined);
    writeFileSync(path("go"), "");
    agent.start();
    expect((await result(id)).result.exit_code).to.equal(9);
    await clean();
  });

  it("ends with code 75 when a newer session was accepted, and claims nothing more", async () => {
    const { mesh, agent, clean } = await setup();
    const old = agent.start();
    await eventually(() => mesh.seen.heartbeats.length > 0);
    mesh.supersede();
    const id = await mesh.submitScript("true");
    expect((await old.exit).code).to.equal(75);
    expect(mesh.resultOf(id)).to.equal(undefined);
    await clean();
  });

  it("claims nothing while it is quarantined, says so, and stays", async () => {
    const { mesh, agent, clean } = await setup();
    mesh.script.hello = () => new MusterError("AGENT_QUARANTINED");
    const one = agent.start();
    await mesh.submitScript("true");
    await eventually(() => one.log().includes("quarantined"));
    expect(mesh.seen.claims).to.deep.equal([]);
    expect(await one.stop()).to.equal(0);
    await clean();
  });

  it("claims nothing with a corrupt journal and says so", async () => {
    const { mesh, agent, clean } = await setup();
    const home = openHome(agent.home);
    await home.close();
    writeFileSync(join(agent.home, "journal.db"), Buffer.alloc(8_192, "no journal "));
    const one = agent.start();
    await eventually(() => one.log().includes("degraded(journal)"));
    expect(mesh.seen.hellos).to.deep.equal([]);
    expect(await one.stop()).to.equal(0);
    await clean();
  });

  it("refuses settings by name, rule and value, among them transports that it does not have", async () => {
    const one = spawnAgent({ AGENT_TRANSPORT: "ws", MUSTER_AGENT_VMS: "no-uuid", MUSTER_TENANT_ID: "t" });
    expect((await one.exit).code).to.equal(78);
    expect(one.log()).to.match(/AGENT_TRANSPORT: must be amqp.*"ws"/);
    expect(one.log()).to.match(/MUSTER_AGENT_VMS: .*"no-uuid"/);
    const { home, remove } = await temporaryHome();
    const common = { MUSTER_AGENT_HOME: home, MUSTER_INTERNAL_PORT: "0" };
    const half = spawnAgent({ ...common, MUSTER_TENANT_ID: "t" });
    expect((await half.exit).code).to.equal(78);
    expect(half.log()).to.match(/MUSTER_AGENT_ID: must be set with the others/);
    await remove();
  });

  it("peaks within 90 MiB of resident memory in hundreds of commands at once, and settles within 80", async () => {
    const { mesh, agent, result, clean } = await setup();
    const one = agent.start();
    const ids: string[] = [];
    for (let n = 0; n < 300; n++) ids.push(await mesh.submit("probe", {}));
    for (const id of ids) await result(id);
    const kibOf = (field: "VmRSS" | "VmHWM"): number => {
      const status = readFileSync(`/proc/${one.child.pid}/status`, "utf8");
      return Number(new RegExp(`${field}:\\s+(\\d+)`).exec(status)?.[1]);
    };
    expect(kibOf("VmHWM"), "at its peak").to.be.below(90 * 1024);
    // What a burst leaves behind is given back once it is over.
    await eventually(() => expect(kibOf("VmRSS")).to.be.below(80 * 1024), 30_000);
    await clean();
  });
});
