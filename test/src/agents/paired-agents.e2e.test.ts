import { cp, readFile, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { uuidv7 } from "@muster/contracts/ids";
import { agentLoginName } from "@muster/contracts/senders";
import { openAdmin } from "@muster/database/admin";
import { eventually, eventuallyHolds } from "@muster/testing/eventually";
import { callManagement } from "@muster/testing/management";
import { expect } from "chai";
import { after, before, describe, it } from "mocha";
import { z } from "zod";
import { openPrivateServers, type PrivateServers } from "../broker-reality/private-servers.ts";
import { freePort } from "../processes.ts";
import { openSystem, type RunningAgent, type System } from "../system.ts";
import { newPairingCode, pairByProgram } from "./pairing.ts";

const tokenTtlSeconds = 30;
const connections = z.array(z.object({ user: z.string().optional() }));

/** Agents as operators install them: paired by their program, known to the broker by tokens alone. */
describe("a paired agent", function () {
  this.timeout(240_000);
  let servers: PrivateServers;
  let system: System;

  before(async () => {
    const gatewayPort = await freePort();
    const brokerKeysUrl = `http://127.0.0.1:${gatewayPort}/.well-known/broker-jwks.json`;
    servers = await openPrivateServers({ brokerKeysUrl });
    const auth = {
      MUSTER_AUTH_AGENT_TOKEN_TTL_SECONDS: String(tokenTtlSeconds),
      MUSTER_AUTH_AGENT_SWEEP_MS: "1000",
      MUSTER_AUTH_EVICTION_LOOK_MS: "500",
    };
    system = await openSystem({ servers, gatewayPort, env: { auth } });
  });
  after(async () => {
    await system?.close();
    await servers?.remove();
  });

  async function install(o: { agentId?: string; home?: string; vm?: string } = {}) {
    const vm = o.vm ?? (await system.registerVm("paired"));
    const agentId = o.agentId ?? uuidv7();
    const home = o.home ?? join(system.folder, `home-${agentId}`);
    const code = await newPairingCode(system.client, { agentId, vmUuids: [vm] });
    const said = await pairByProgram({ gatewayUrl: system.gatewayUrl, code, home });
    return { vm, agentId, home, said, code };
  }
  const start = (agent: { agentId: string; home: string }, name?: string): Promise<RunningAgent> =>
    system.startPairedAgent({ ...agent, ...(name === undefined ? {} : { name }) });

  async function run(vm: string, text = "echo done"): Promise<string> {
    const body = { vm_uuid: vm, action: "script", params: { text }, timeout_seconds: 60 } as const;
    const { data } = await system.client.acceptCommand({ body });
    return data.command.id;
  }
  const stateOf = async (id: string) =>
    (await system.client.getCommand({ params: { id } })).data.command.state;
  const ends = (id: string) =>
    eventuallyHolds(async () => expect(await stateOf(id)).to.equal("succeeded"), 60_000);
  const connected = async (login: string): Promise<number> => {
    const all = connections.parse(
      await callManagement(servers.managementUrl, "GET", "/connections?columns=user"),
    );
    return all.filter(({ user }) => user === login).length;
  };
  const epochOf = async (vm: string) =>
    (await system.client.getVm({ params: { vm_uuid: vm } })).data.vm.epoch;
  const auth = async (text: string, values: readonly unknown[]) => {
    const admin = await openAdmin(system.adminDatabaseUrl);
    await admin.query(text, [...values]);
    await admin.close();
  };

  it("is paired from the command line, keeps its key to itself, and works by tokens that it renews without a break", async () => {
    const agent = await install();
    expect(agent.said).to.include(`paired: agent ${agent.agentId} of tenant default, epoch 1`);
    const path = join(agent.home, "identity.json");
    expect((await stat(path)).mode & 0o777).to.equal(0o600);
    const key = (JSON.parse(await readFile(path, "utf8")) as { private_key: string }).private_key;
    const again = pairByProgram({
      gatewayUrl: system.gatewayUrl,
      code: agent.code,
      home: join(system.folder, "thief"),
    });
    expect(await again.catch(String)).to.include("PAIRING_CODE_INVALID");

    const running = await start(agent, "renewing");
    await ends(await run(agent.vm));
    const renewals = async () => {
      const text = await fetch(`${running.process.internalUrl}/metrics`).then((answer) => answer.text());
      return Number(/^muster_agent_token_renewals_total\{.*outcome="issued".*\} (\d+)/m.exec(text)?.[1] ?? 0);
    };
    await eventuallyHolds(async () => expect(await renewals()).to.be.greaterThan(3), 90_000);
    await ends(await run(agent.vm));
    const log = await system.logOf("renewing");
    expect(log).to.not.include("connection to the broker lost");
    for (const name of ["renewing", "gateway", "auth"]) {
      expect(await system.logOf(name)).to.not.include(key.split("\n")[1]);
    }
    await running.process.stop();
  });

  it("is out of the broker moments after it was revoked, starts nothing more, and is let in again by a new pairing", async () => {
    const agent = await install();
    const running = await start(agent, "revoked");
    await ends(await run(agent.vm));
    const login = agentLoginName(agent.agentId);
    await eventuallyHolds(async () => expect(await connected(login)).to.equal(2), 30_000);
    const fromMs = performance.now();
    await system.client.revokeAgent({ params: { agent_id: agent.agentId } });
    const answeredMs = performance.now() - fromMs;
    await eventually(async () => (await system.logOf("revoked")).includes("connection to the broker lost"));
    const goneMs = performance.now() - fromMs;
    const waiting = await run(agent.vm);
    // By then it has tried to come back, with a token that has not expired.
    await eventually(
      async () => (await system.logOf("revoked")).includes("revoked, or paired anew elsewhere"),
      60_000,
    );
    await eventuallyHolds(async () => expect(await connected(login)).to.equal(0), 30_000);
    expect(await stateOf(waiting)).to.be.oneOf(["queued", "dispatched"]);
    process.stdout.write(
      `      revocation answered after ${Math.round(answeredMs)} ms, connections gone after ${Math.round(goneMs)} ms\n`,
    );
    await running.process.stop();

    const before = await epochOf(agent.vm);
    const anew = await install({ agentId: agent.agentId, home: agent.home, vm: agent.vm });
    expect(anew.said).to.include("epoch 2");
    await start(agent, "anew");
    await ends(waiting);
    await ends(await run(agent.vm));
    expect(await epochOf(agent.vm)).to.equal(before + 1);
    const anewLogin = agentLoginName(agent.agentId, { epoch: 2 });
    await eventuallyHolds(async () => expect(await connected(anewLogin)).to.equal(2), 30_000);
  });

  it("that came back from a snapshot is quarantined until it is paired anew, and the other one is out then", async () => {
    const agent = await install();
    const snapshot = join(system.folder, "snapshot");
    const first = await start(agent, "original");
    await ends(await run(agent.vm));
    await first.process.stop();
    await cp(agent.home, snapshot, { recursive: true });
    await rm(join(snapshot, "lock.db"), { force: true });
    const second = await start(agent, "original-again");
    for (let n = 0; n < 3; n++) await ends(await run(agent.vm));
    await second.process.stop();

    const old = await system.startPairedAgent({
      agentId: agent.agentId,
      home: snapshot,
      name: "snapshot",
      online: false,
    });
    await eventually(async () => (await system.logOf("snapshot")).includes("ran backwards"), 60_000);
    const waiting = await run(agent.vm);
    await old.process.stop();
    await install({ agentId: agent.agentId, home: snapshot, vm: agent.vm });
    await start({ agentId: agent.agentId, home: snapshot }, "chosen");
    await ends(waiting);
    const original = await system.startPairedAgent({ ...agent, name: "refused", online: false });
    await eventually(
      async () => (await system.logOf("refused")).includes("revoked, or paired anew elsewhere"),
      60_000,
    );
    await ends(await run(agent.vm));
    await original.process.stop();
  });

  it("whose token has expired and was not renewed loses its consumers", async () => {
    const agent = await install();
    const running = await start(agent, "expired");
    await ends(await run(agent.vm));
    const login = agentLoginName(agent.agentId);
    await eventuallyHolds(async () => expect(await connected(login)).to.equal(2), 30_000);
    // As if its last token had been given long ago. It is stopped, so that it renews nothing.
    running.process.signal("SIGSTOP");
    await auth("UPDATE auth.agents SET token_until = now() - interval '1 second' WHERE id = $1", [
      agent.agentId,
    ]);
    await eventuallyHolds(async () => expect(await connected(login)).to.equal(0), 30_000);
    running.process.signal("SIGCONT");
    await ends(await run(agent.vm));
    await running.process.stop();
  });

  it("comes back by itself when the broker has forgotten every key, and when auth was away for a while", async () => {
    const agent = await install();
    const running = await start(agent, "patient");
    await system.services.auth.stop();
    await servers.restartBroker();
    system.services.auth.start();
    await system.services.auth.ready();
    await ends(await run(agent.vm));
    await running.process.stop();
  });

  it("says what to do where it is not paired, or the gateway cannot be reached", async () => {
    const home = join(system.folder, "empty");
    const unpaired = await system.startPairedAgent({
      agentId: uuidv7(),
      home,
      name: "unpaired",
      online: false,
    });
    await eventually(() => unpaired.process.ended);
    expect(unpaired.process.exitCode).to.equal(78);
    expect(await system.logOf("unpaired")).to.include("muster-agent pair --gateway URL --code CODE");
    const code = await newPairingCode(system.client, { agentId: uuidv7(), vmUuids: [uuidv7()] });
    const nowhere = pairByProgram({ gatewayUrl: `http://127.0.0.1:${await freePort()}`, code, home });
    expect(await nowhere.catch(String)).to.include("cannot be reached");
    expect(await pairByProgram({ gatewayUrl: system.gatewayUrl, code, home })).to.include("paired");
  });
});
