import { randomUUID } from "node:crypto";
import { agentLost, agentRecovered } from "@muster/contracts/reliability";
import { uuidv7 } from "@muster/contracts/ids";
import { prepareEvent } from "@muster/broker/prepare";
import { eventuallyHolds } from "@muster/testing/eventually";
import { vmOpsRequests } from "@muster/contracts/vm-ops";
import { loginName } from "@muster/contracts/senders";
import { expect } from "chai";
import { ScriptedAgent } from "./scripted-agent.ts";
import { codeOf, setup } from "./setup.ts";
import type { Setup } from "./setup.ts";

describe("sessions of agents", function () {
  this.timeout(60_000);
  let s: Setup;
  before(async () => (s = await setup()));
  after(() => s.close());

  const age = (agent: ScriptedAgent) =>
    s.sql("UPDATE agent_sessions SET started_at = now() - interval '1 hour' WHERE agent_id = $1", [
      agent.agentId,
    ]);

  it("keeps its generation when the same session says hello again", async () => {
    const agent = new ScriptedAgent(s, [await s.vm()]);
    expect((await agent.hello()).generation).to.equal(1);
    expect((await agent.hello()).generation).to.equal(1);
    expect((await agent.restart()).generation).to.equal(2);
  });

  it("lets the newest session win; the older one's reports are refused", async () => {
    const vm = await s.vm();
    const agent = new ScriptedAgent(s, [vm]);
    await agent.hello();
    const old = agent.session;
    const id = await s.exec(vm);
    const grant = await agent.granted(id);
    await agent.restart();
    const newest = agent.session;
    agent.session = old;
    expect(await codeOf(agent.claim(id))).to.equal("AGENT_SUPERSEDED");
    expect(await codeOf(agent.result(grant))).to.equal("AGENT_SUPERSEDED");
    expect(await codeOf(agent.output(grant, [{ offset: 0, data: "x" }]))).to.equal("AGENT_SUPERSEDED");
    agent.session = newest;
    expect(await agent.result(grant)).to.equal("final");
  });

  it("quarantines a journal that runs backwards, until it is installed afresh", async () => {
    const vm = await s.vm();
    const agent = new ScriptedAgent(s, [vm]);
    agent.journalSeq = 10;
    await agent.hello();
    await age(agent);
    agent.journalSeq = 5;
    expect(await codeOf(agent.restart())).to.equal("AGENT_QUARANTINED");
    agent.journalSeq = 20;
    expect(await codeOf(agent.restart())).to.equal("AGENT_QUARANTINED");
    expect(await codeOf(agent.claim(await s.exec(vm)))).to.equal("AGENT_QUARANTINED");
    agent.journalId = uuidv7();
    agent.lastGeneration = 0;
    expect((await agent.restart()).generation).to.equal(2);
    expect(await codeOf(agent.claim(randomUUID()))).to.equal("none");
  });

  it("quarantines a generation that runs backwards, but forgives a hello whose answer was lost", async () => {
    const agent = new ScriptedAgent(s, [await s.vm()]);
    await agent.hello();
    agent.lastGeneration = 0;
    expect((await agent.restart()).generation).to.equal(2);
    await agent.claim(randomUUID());
    agent.lastGeneration = 1;
    expect(await codeOf(agent.restart())).to.equal("AGENT_QUARANTINED");
  });

  it("is not mistaken by an older hello that arrives late", async () => {
    const agent = new ScriptedAgent(s, [await s.vm()]);
    const older = uuidv7();
    await agent.hello({ session_id: uuidv7() });
    const newest = agent.session;
    expect(await codeOf(agent.hello({ session_id: older }))).to.equal("DEPENDENCY_UNAVAILABLE");
    agent.session = newest;
    expect(await agent.claim(randomUUID())).to.equal("superseded");
  });

  it("gives a VM to the agent that named it last, and takes it from one that no longer does", async () => {
    const [one, two] = [await s.vm(), await s.vm()];
    const first = new ScriptedAgent(s, [one, two]);
    const second = new ScriptedAgent(s, [two]);
    expect((await first.hello()).vms.map((vm) => vm.vm_uuid)).to.have.members([one, two]);
    await second.hello();
    const agentOf = async (vm_uuid: string) =>
      (await s.ask(vmOpsRequests.getVm, { vm_uuid })).agent?.agent_id;
    expect(await agentOf(one)).to.equal(first.agentId);
    expect(await agentOf(two)).to.equal(second.agentId);
    await first.hello({ vm_uuids: [two] });
    expect(await agentOf(one)).to.equal(undefined);
  });

  it("leaves out VMs that are not registered in the agent's tenant", async () => {
    const foreign = await s.vm({ tenant: "other" });
    const agent = new ScriptedAgent(s, [foreign, randomUUID()]);
    const reply = await agent.hello();
    expect(reply.vms).to.deep.equal([]);
    expect(await agent.claim(randomUUID(), { vm: foreign })).to.equal("superseded");
  });

  it("learns presence from events of the current generation alone", async () => {
    const vm = await s.vm();
    const agent = new ScriptedAgent(s, [vm]);
    await agent.hello();
    await agent.restart();
    const online = async () => (await s.ask(vmOpsRequests.getVm, { vm_uuid: vm })).agent?.online;
    const tell = async (contract: typeof agentLost | typeof agentRecovered, generation: number) => {
      const at = new Date().toISOString();
      const o = { context: { correlationId: uuidv7() }, tenantId: "acme" };
      const payload = { agent_id: agent.agentId, generation, at, last_seen_at: at, kind: "lost" as const };
      expect(
        (await (await s.peer(loginName("reliability"))).publish(prepareEvent(contract, payload, o))).kind,
      ).to.equal("routed");
    };
    await tell(agentLost, 1);
    await tell(agentLost, 2);
    await eventuallyHolds(async () => expect(await online()).to.equal(false));
    await tell(agentRecovered, 2);
    await eventuallyHolds(async () => expect(await online()).to.equal(true));
    await tell(agentLost, 1);
    await tell(agentRecovered, 2);
    expect(await online()).to.equal(true);
  });

  it("takes up agents that know more than a database restored to an older point", async () => {
    const vm = await s.vm();
    const agent = new ScriptedAgent(s, [vm]);
    await agent.hello();
    const forgotten = await agent.granted(await s.exec(vm));
    await agent.restart();
    await agent.restart();
    // As of before the command, and before the last two sessions.
    await s.sql("DELETE FROM commands WHERE id = $1", [forgotten.command_id]);
    await s.sql("UPDATE agent_sessions SET generation = 1, used_generation = 1 WHERE agent_id = $1", [
      agent.agentId,
    ]);
    const next = await s.exec(vm);
    expect(await codeOf(agent.claim(next))).to.equal("DEPENDENCY_UNAVAILABLE");
    await age(agent);
    expect((await agent.restart()).generation).to.be.greaterThan(3);
    expect(await agent.result(forgotten)).to.equal("refused");
    expect(await agent.claim(next)).to.equal("granted");
  });
});
