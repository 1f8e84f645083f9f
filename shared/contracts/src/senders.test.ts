import { expect } from "chai";
import { describe, it } from "mocha";
import { services, type EventContract, type RequestContract } from "./define.ts";
import { mesh } from "./mesh.ts";
import {
  agentLoginName,
  loginName,
  mayAsk,
  mayReport,
  mayRing,
  mayTell,
  senderFault,
  senderOf,
  type Sender,
} from "./senders.ts";

const agentId = "0190aaaa-0000-7000-8000-000000000001";
const other = "0190aaaa-0000-7000-8000-000000000002";
const service = (one: (typeof services)[number]): Sender => ({ kind: "service", service: one });
const agent = (epoch = 1): Sender => ({ kind: "agent", agentId, epoch });

describe("the sender of a message", () => {
  it("is read from the login that the broker vouches for", () => {
    const known: [string, Sender][] = [
      ...services.flatMap((one): [string, Sender][] => [
        [loginName(one), service(one)],
        [loginName(one, "staging"), service(one)],
        [loginName(one, "a@b"), service(one)],
      ]),
      [loginName("topology"), { kind: "topology" }],
      [loginName("warden", "staging"), { kind: "warden" }],
      [agentLoginName(agentId), agent()],
      [agentLoginName(agentId, { epoch: 12 }), agent(12)],
      [agentLoginName(agentId, { place: "staging" }), agent()],
      [agentLoginName(agentId, { epoch: 2, place: "staging" }), agent(2)],
    ];
    for (const [name, sender] of known) expect(senderOf(name), name).to.deep.equal(sender);
  });

  it("is nobody where the name is missing or nobody's of ours, an administrator's above all", () => {
    const names = [
      ...["", "guest", "admin", "muster", "muster-", "muster-vm-ops@", "muster-vm-ops-2", "xmuster-vm-ops"],
      ...["MUSTER-VM-OPS", "muster-vm-opsx", "muster-vm_ops", " muster-vm-ops", "muster-vm-ops\n", "vm-ops"],
      ...[
        "agent-",
        "agent-1",
        `agent-${agentId}-`,
        `agent-${agentId}-1-2`,
        `agent-${agentId}`,
        `agent-${agentId}-0`,
        `agent-${agentId}-01`,
        `agent-${agentId}-x`,
      ],
      ...[`agent-${agentId}@`, `agent-${agentId.toUpperCase()}`, agentId, `muster-agent-${agentId}`],
    ];
    for (const name of names) {
      expect(senderOf(name), JSON.stringify(name)).to.equal(undefined);
      expect(senderFault(name)).to.equal("unknown_sender");
    }
    expect(senderOf(undefined)).to.equal(undefined);
    expect(senderFault(undefined)).to.equal("no_sender");
    expect(senderFault(loginName("auth"))).to.equal("other_sender");
  });
});

describe("what a sender may send", () => {
  const senders: readonly (Sender | undefined)[] = [
    ...services.map(service),
    ...[agent(), { kind: "topology" } as const, undefined],
  ];
  const namesOf = (allowed: (sender: Sender | undefined) => boolean): string[] =>
    senders
      .filter(allowed)
      .map((sender) => (sender?.kind === "service" ? sender.service : (sender?.kind ?? "nobody")));

  it("is a request whose caller it is, and no other", () => {
    for (const contract of Object.values(mesh.requests).flatMap((group) =>
      Object.values<RequestContract>(group),
    )) {
      const allowed = services.filter((one) => contract.callers.includes(one));
      expect(
        namesOf((sender) => mayAsk(contract, sender)),
        contract.name,
      ).to.deep.equal(allowed);
    }
  });

  it("is an event or a doorbell of its own; who puts back what died may send anybody's", () => {
    const events = Object.values(mesh.events).flatMap((group) => Object.values<EventContract>(group));
    for (const contract of [...events, ...Object.values(mesh.doorbells)]) {
      const may = contract.kind === "event" ? mayTell : mayRing;
      const allowed = services.filter((one) => one === contract.owner || one === "reliability");
      expect(
        namesOf((sender) => may(contract, sender)),
        contract.name,
      ).to.deep.equal(allowed);
    }
  });

  it("is a report under its own name, for an agent alone", () => {
    expect(namesOf((sender) => mayReport(agentId, sender))).to.deep.equal(["agent"]);
    expect(namesOf((sender) => mayReport(other, sender))).to.deep.equal([]);
  });
});
