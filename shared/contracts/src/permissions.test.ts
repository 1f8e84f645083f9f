import { expect } from "chai";
import { services, type Service } from "./define.ts";
import { meshWith } from "./mesh.ts";
import { agentPermissions, servicePermissions, topologyPermissions } from "./permissions.ts";
import type { BrokerPermissions } from "./permissions.ts";
import { topologyOf } from "./topology.ts";

const whole = meshWith({ type: "quorum", deliveryLimit: 2, lengthMax: 1_000 });
const topology = topologyOf(whole);
const of = (service: Service) => servicePermissions(whole, topology, service);
const fits = (pattern: string, text: string): boolean => new RegExp(pattern).test(text);
const publishes = ({ write, topics }: BrokerPermissions, exchange: string, key: string): boolean => {
  const topic = topics.find((one) => one.exchange === exchange);
  return fits(write, exchange) && (topic === undefined || fits(topic.write, key));
};
const keeper: Service = "reliability";

describe("a service's permissions at the broker", () => {
  for (const service of services) {
    it(`let ${service} send what is declared for it, and nothing else`, () => {
      const mine = of(service);
      const requests = Object.values(whole.requests).flatMap((group) => Object.values(group));
      for (const { name, callers } of requests) {
        const may = callers.includes(service) || service === keeper;
        expect(publishes(mine, "muster.requests", name), name).to.equal(may);
      }
      for (const { name, owner } of whole.events) {
        const may = owner === service || service === keeper;
        expect(publishes(mine, `muster.${owner}.events`, name), name).to.equal(may);
        expect(publishes(mine, `muster.${owner}.events`, `${name}.more`)).to.equal(service === keeper);
      }
      expect(publishes(mine, "muster.agents", "agents.acme.a.claim")).to.equal(service === keeper);
      const command = "0197a3c0-0000-7000-8000-0000000000aa";
      expect(publishes(mine, "muster.live", command)).to.equal(service === "vm-ops" || service === keeper);
    });

    it(`let ${service} read its own queues and no other's`, () => {
      for (const { name, owner, role } of topology.queues) {
        const may = role === "consumed" ? owner === service : role === "parking" && service === keeper;
        expect(fits(of(service).read, name), name).to.equal(may);
        expect(fits(of(service).configure, name), name).to.equal(false);
      }
      const vm = "vm.acme.0197a3c0-0000-7000-8000-0000000000aa.commands";
      expect(fits(of(service).read, vm)).to.equal(service === "vm-ops");
      expect(fits(of(service).configure, vm)).to.equal(service === "vm-ops");
      for (const { name } of topology.exchanges) expect(fits(of(service).configure, name)).to.equal(false);
    });
  }

  it("leave the default exchange, which reaches every queue, to those who answer requests", () => {
    const may = services.filter((service) => fits(of(service).write, "amq.default"));
    expect(may).to.deep.equal(["auth", "vm-ops", "reliability", "secrets"]);
  });

  it("let a name mean itself alone: no dot is any character", () => {
    expect(publishes(of("gateway"), "muster.requests", "authXapi-key.exchange.v1")).to.equal(false);
    expect(fits(of("auth").read, "authXrequests")).to.equal(false);
  });

  it("give the topology's keeper what is declared, but no VM's queue and no default exchange", () => {
    const keeps = topologyPermissions(topology);
    for (const { name } of [...topology.queues, ...topology.exchanges]) {
      expect(fits(keeps.configure, name), name).to.equal(true);
    }
    expect(
      ["amq.default", "vm.acme.x.commands", "other"].map((name) => fits(keeps.write, name)),
    ).to.deep.equal([false, false, false]);
  });
});

describe("an agent's permissions at the broker", () => {
  const agentId = "0197a3c0-0000-7000-8000-000000000001";
  const vmUuids = ["0197a3c0-0000-7000-8000-0000000000aa", "0197a3c0-0000-7000-8000-0000000000bb"];
  const agent = agentPermissions({ tenantId: "acme", agentId, vmUuids });

  it("read the queues of its own VMs and no other queue", () => {
    for (const vm of vmUuids) expect(fits(agent.read, `vm.acme.${vm}.commands`)).to.equal(true);
    const others = [
      "vm.acme.0197a3c0-0000-7000-8000-0000000000cc.commands",
      `vm.acme2.${vmUuids[0]}.commands`,
      `vmXacme.${vmUuids[0]}.commands`,
      ...topology.queues.map(({ name }) => name),
    ];
    for (const other of others) expect(fits(agent.read, other), other).to.equal(false);
  });

  it("report under its own tenant and name alone", () => {
    const may = (key: string): boolean => publishes(agent, "muster.agents", key);
    for (const { reports } of whole.reports) {
      for (const { report } of Object.values(reports)) {
        expect(may(`agents.acme.${agentId}.${report}`)).to.equal(true);
        expect(may(`agents.acme.${agentId.replace(/1$/, "2")}.${report}`)).to.equal(false);
        expect(may(`agents.other.${agentId}.${report}`)).to.equal(false);
      }
    }
    const exchanges = [...topology.exchanges.map(({ name }) => name), "amq.default", ""];
    expect(exchanges.filter((name) => fits(agent.write, name))).to.deep.equal(["muster.agents"]);
  });

  it("declare nothing", () => {
    for (const name of ["vm.acme.x.commands", "q", "", "amq.gen-x"]) {
      expect(fits(agent.configure, name), name).to.equal(name === "");
    }
  });
});
