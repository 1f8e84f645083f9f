import { expect } from "chai";
import { agentUser } from "./agent-user.ts";

const identity = {
  tenantId: "acme",
  agentId: "0197a3c0-0000-7000-8000-000000000001",
  vmUuids: ["0197a3c0-0000-7000-8000-0000000000aa", "0197a3c0-0000-7000-8000-0000000000bb"],
};

describe("the broker user of an agent", () => {
  it("reads the queues of its own VMs and no other queue", () => {
    const read = new RegExp(agentUser(identity).permissions.read);
    for (const vm of identity.vmUuids) expect(read.test(`vm.acme.${vm}.commands`)).to.equal(true);
    expect(read.test("vm.acme.0197a3c0-0000-7000-8000-0000000000cc.commands")).to.equal(false);
    expect(read.test(`vm.acme2.${identity.vmUuids[0]}.commands`)).to.equal(false);
    expect(read.test(`vmXacme.${identity.vmUuids[0]}.commands`)).to.equal(false);
    expect(read.test("vm-ops.agents")).to.equal(false);
  });

  it("reports under its own tenant and name alone", () => {
    const { topicPermissions, permissions } = agentUser(identity);
    const topic = new RegExp(topicPermissions.write);
    expect(topic.test(`agents.acme.${identity.agentId}.claim`)).to.equal(true);
    expect(topic.test(`agents.acme.${identity.agentId.replace(/1$/, "2")}.claim`)).to.equal(false);
    expect(topic.test(`agents.other.${identity.agentId}.claim`)).to.equal(false);
    const write = new RegExp(permissions.write);
    expect(
      ["muster.agents", "muster.agents.unrouted", "amq.default", ""].map((name) => write.test(name)),
    ).to.deep.equal([true, false, false, false]);
  });

  it("declares nothing", () => {
    const configure = new RegExp(agentUser(identity).permissions.configure);
    expect(configure.test("vm.acme.x.commands")).to.equal(false);
    expect(configure.test("q")).to.equal(false);
  });
});
