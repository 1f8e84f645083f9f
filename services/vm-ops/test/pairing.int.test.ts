import { prepareEvent } from "@muster/broker/prepare";
import type { PayloadInputOf } from "@muster/contracts/define";
import { uuidv7 } from "@muster/contracts/ids";
import { agentChanged } from "@muster/contracts/pairing";
import { loginName } from "@muster/contracts/senders";
import { vmOpsRequests } from "@muster/contracts/vm-ops";
import { eventuallyHolds } from "@muster/testing/eventually";
import { expect } from "chai";
import { after, before, describe, it } from "mocha";
import { ScriptedAgent } from "./scripted-agent.ts";
import { codeOf, setup, type Setup } from "./setup.ts";

type Change = Partial<PayloadInputOf<typeof agentChanged>>;

describe("an agent's pairing, as auth tells of it", function () {
  this.timeout(60_000);
  let s: Setup;

  before(async () => {
    s = await setup();
  });
  after(() => s.close());

  const unpaired = (vms: string[]): ScriptedAgent => {
    const agent = new ScriptedAgent(s, vms);
    agent.pairs = false;
    return agent;
  };
  async function tell(agent: ScriptedAgent, revision: number, change: Change = {}): Promise<void> {
    const payload = {
      ...{ agent_id: agent.agentId, revision, state: "paired" as const, epoch: 1, vm_uuids: agent.vms },
      ...{ at: new Date().toISOString(), ...change },
    } as const;
    const auth = await s.peer(loginName("auth"));
    const message = prepareEvent(agentChanged, payload, {
      context: { correlationId: uuidv7() },
      tenantId: "acme",
    });
    expect((await auth.publish(message)).kind).to.equal("routed");
  }
  const known = async (agent: ScriptedAgent, revision: number) =>
    eventuallyHolds(async () => {
      const rows = await s.sql("SELECT revision FROM paired_agents WHERE agent_id = $1", [agent.agentId]);
      expect(rows).to.deep.equal([{ revision }]);
    });
  const vmOf = (vm_uuid: string) => s.ask(vmOpsRequests.getVm, { vm_uuid });

  it("is what lets it in, and for the VMs that it was paired for alone", async () => {
    const [own, others] = [await s.vm(), await s.vm()];
    const agent = unpaired([own]);
    expect(await codeOf(agent.hello())).to.equal("DEPENDENCY_UNAVAILABLE");
    await tell(agent, 1);
    await known(agent, 1);
    const reply = await agent.hello({ vm_uuids: [own, others] });
    expect(reply.vms.map((vm) => vm.vm_uuid)).to.deep.equal([own]);
    expect((await vmOf(others)).agent).to.equal(null);
    const foreign = await s.exec(others);
    expect(await agent.claim(foreign, { vm: others })).to.equal("retry");
    expect(await agent.claim(await s.exec(own))).to.equal("granted");
  });

  it("ends at once: nothing that it says counts any more, and its VMs are nobody's", async () => {
    const agent = unpaired([await s.vm()]);
    await tell(agent, 1);
    await known(agent, 1);
    await agent.hello();
    const [first, second] = [await s.exec(agent.vms[0] ?? ""), await s.exec(agent.vms[0] ?? "")];
    const grant = await agent.granted(first);
    await tell(agent, 2, { state: "revoked" });
    await known(agent, 2);
    await tell(agent, 1);
    for (const said of [agent.claim(second), agent.result(grant), agent.progress(grant), agent.hello()]) {
      expect(await codeOf(said)).to.equal("AGENT_REVOKED");
    }
    expect((await vmOf(agent.vms[0] ?? "")).agent).to.equal(null);
  });

  it("loses a VM by a change, and no other", async () => {
    const [kept, lost] = [await s.vm(), await s.vm()];
    const agent = unpaired([kept, lost]);
    await tell(agent, 1);
    await known(agent, 1);
    await agent.hello();
    await tell(agent, 2, { vm_uuids: [kept] });
    await known(agent, 2);
    expect(await agent.claim(await s.exec(lost), { vm: lost })).to.equal("retry");
    expect(await agent.claim(await s.exec(kept), { vm: kept })).to.equal("granted");
    expect((await agent.hello()).vms.map((vm) => vm.vm_uuid)).to.deep.equal([kept]);
  });

  it("made anew lets it out of quarantine with a higher epoch, and shuts out whoever has the earlier one", async () => {
    const vm = await s.vm();
    const agent = unpaired([vm]);
    await tell(agent, 1);
    await known(agent, 1);
    agent.journalSeq = 100;
    await agent.hello();
    agent.journalSeq = 50;
    agent.lastGeneration = 1;
    expect(await codeOf(agent.restart())).to.equal("AGENT_QUARANTINED");
    const waiting = await s.exec(vm);

    await tell(agent, 2, { epoch: 2 });
    await known(agent, 2);
    expect(await codeOf(agent.restart()), "by the earlier pairing").to.equal("AGENT_REVOKED");
    agent.epoch = 2;
    const reply = await agent.restart();
    expect(reply.generation).to.be.greaterThan(1);
    expect(reply.vms).to.deep.equal([{ vm_uuid: vm, epoch: 2, concurrency: 1 }]);
    expect(reply.pending.map((bell) => [bell.command_id, bell.epoch])).to.deep.equal([[waiting, 2]]);
    expect(await agent.claim(waiting), "as it was rung before").to.equal("wrong_epoch");
    expect(await agent.claim(waiting, { epoch: 2 })).to.equal("granted");
  });

  it("is not taken from a message of a time before, whatever the order in which they come", async () => {
    const agent = unpaired([await s.vm()]);
    await tell(agent, 3, { epoch: 2 });
    await tell(agent, 2, { state: "revoked" });
    await tell(agent, 1);
    await known(agent, 3);
    agent.epoch = 2;
    expect((await agent.hello()).vms).to.have.length(1);
  });
});
