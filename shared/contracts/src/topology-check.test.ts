import { expect } from "chai";
import fc from "fast-check";
import { defineEvent, defineRequest, defineSubscription } from "./define.ts";
import { meshWith } from "./mesh.ts";
import { checkTopology, faultsOfShape, topicMatches } from "./topology-check.ts";
import { topologyOf, type Mesh, type PolicyShape, type Topology } from "./topology.ts";
import { z } from "zod";

const vmQueues = { type: "quorum", deliveryLimit: 2, lengthMax: 1_000 } as const;
const happened = defineEvent({
  name: "vm-ops.thing.happened.v1",
  summary: "x",
  owner: "vm-ops",
  payload: z.object({}),
});
const things = defineSubscription({
  service: "reliability",
  name: "things",
  summary: "x",
  events: { happened },
});
const ask = defineRequest({
  name: "vm-ops.thing.ask.v1",
  summary: "x",
  owner: "vm-ops",
  payload: z.object({}),
  reply: z.object({}),
  codes: [],
});
const mesh: Mesh = {
  events: [happened],
  requests: { "vm-ops": { ask } },
  reports: [],
  subscriptions: [things],
  hearings: [],
  doorbells: [],
  vmQueues,
};
const sound = topologyOf(mesh);

function withDefinition(name: string, change: (d: Record<string, string | number>) => void): Topology {
  const policies = sound.policies.map((policy): PolicyShape => {
    if (policy.name !== name) return policy;
    const definition = { ...policy.definition };
    change(definition);
    return { ...policy, definition };
  });
  return { ...sound, policies };
}

describe("the topology", () => {
  it("of everything declared is sound, with either kind of VM queue", () => {
    for (const type of ["quorum", "classic"] as const) {
      const whole = meshWith({ ...vmQueues, type });
      expect(checkTopology(whole, topologyOf(whole))).to.deep.equal([]);
    }
    expect(checkTopology(mesh, sound)).to.deep.equal([]);
  });

  it("keeps as arguments only what a policy cannot change", () => {
    for (const queue of sound.queues) expect(queue.arguments).to.deep.equal({ "x-queue-type": "quorum" });
  });

  it("gives a VM's queue the requeue limit as its delivery limit, never less than one, and classic ones none", () => {
    const limitOf = (policy: Partial<Mesh["vmQueues"]>) =>
      topologyOf({ ...mesh, vmQueues: { ...vmQueues, ...policy } }).policies.find(({ name }) => name === "vm")
        ?.definition["delivery-limit"];
    expect(limitOf({ deliveryLimit: 5 })).to.equal(5);
    expect(limitOf({ deliveryLimit: 0 })).to.equal(1);
    expect(limitOf({ type: "classic" })).to.equal(undefined);
  });

  it("is refused when an event has no ear, or an ear no event", () => {
    expect(checkTopology({ ...mesh, subscriptions: [] }, sound)[0]).to.match(
      /nobody subscribes to vm-ops\.thing\.happened\.v1; .*mark it external/,
    );
    expect(checkTopology({ ...mesh, events: [] }, sound)[0]).to.match(/nobody declares it; add it/);
  });

  it("is refused when a name has two owners, or an owner's request is listed elsewhere", () => {
    expect(checkTopology({ ...mesh, events: [happened, happened] }, sound)[0]).to.match(
      /declared by .* and by .*rename/,
    );
    expect(checkTopology({ ...mesh, requests: { auth: { ask } } }, sound)[0]).to.match(
      /owned by vm-ops but listed under auth/,
    );
    expect(checkTopology({ ...mesh, subscriptions: [things, things] }, sound)[0]).to.match(
      /queue reliability\.things is declared twice/,
    );
  });

  it("is refused when a consumed queue has no dead letters, or may lose them", () => {
    const none = withDefinition("vm-ops.requests", (d) => delete d["dead-letter-exchange"]);
    expect(faultsOfShape(none)[0]).to.match(/dead letters of queue vm-ops\.requests reach no queue; give it/);
    const unbound = {
      ...sound,
      bindings: sound.bindings.filter(({ routingKey }) => routingKey !== "vm-ops.#"),
    };
    expect(faultsOfShape(unbound)[0]).to.match(/dead letters of queue vm-ops\.requests reach no queue/);
    const lossy = withDefinition("vm-ops.requests", (d) => delete d["overflow"]);
    expect(faultsOfShape(lossy)[0]).to.match(/may lose dead letters; set/);
  });

  it("is refused when policies overlap, are missing, or set a limit below one", () => {
    const all: PolicyShape = { name: "all", pattern: ".*", appliesTo: "queues", definition: {} };
    expect(faultsOfShape({ ...sound, policies: [...sound.policies, all] })[0]).to.match(
      /all match queue .*make them disjoint/,
    );
    const fewer = sound.policies.filter(({ name }) => name !== "reliability.retry.1s");
    expect(faultsOfShape({ ...sound, policies: fewer })[0]).to.match(
      /no policy matches queue reliability\.retry\.1s/,
    );
    const unlimited = withDefinition("vm-ops.requests", (d) => (d["delivery-limit"] = -1));
    expect(faultsOfShape(unlimited)[0]).to.match(/delivery-limit -1; set it to 1 or more/);
  });

  it("is refused when one queue would have two waiting times", () => {
    const wrong = withDefinition("reliability.retry.1s", (d) => (d["message-ttl"] = 5_000));
    expect(faultsOfShape(wrong)[0]).to.match(/waits 5000 ms; its name says 1s/);
    const fed = { exchange: "reliability.retry.10s", queue: "reliability.retry.1s", routingKey: "" };
    expect(faultsOfShape({ ...sound, bindings: [...sound.bindings, fed] })[0]).to.match(/fed by 2 exchanges/);
    const dying = withDefinition("vm-ops.requests", (d) => (d["message-ttl"] = 5_000));
    expect(faultsOfShape(dying)[0]).to.match(/is no retry queue; its messages would die unhandled/);
  });

  it("is refused when a stranger's message would stay in a retry queue", () => {
    const unparked = withDefinition("muster.retries", (d) => delete d["alternate-exchange"]);
    expect(faultsOfShape(unparked)[0]).to.match(
      /a stranger puts into retry queue reliability\.retry\.1s stays/,
    );
    const byDefault = withDefinition("reliability.retry.1s", (d) => (d["dead-letter-exchange"] = ""));
    expect(faultsOfShape(byDefault)[0]).to.match(
      /stays in it for ever; send its dead letters to an exchange/,
    );
    const unbound = {
      ...sound,
      bindings: sound.bindings.filter(({ exchange }) => exchange !== "muster.retries"),
    };
    expect(faultsOfShape(unbound)[0]).to.match(/dead letters of queue reliability\.retry\.1s reach no queue/);
  });

  it("is refused when dead letters go round by themselves", () => {
    const round = withDefinition("reliability.things", (d) => {
      d["dead-letter-exchange"] = "reliability.retry.1s";
    });
    expect(faultsOfShape(round)).to.satisfy((faults: string[]) =>
      faults.some((fault) => /go round by themselves: .*reliability\.things.*send one of them/.test(fault)),
    );
  });

  it("is refused when a binding or an alternate exchange leads nowhere", () => {
    const nowhere = { exchange: "no.such", queue: "no.queue", routingKey: "#" };
    const faults = faultsOfShape({ ...sound, bindings: [...sound.bindings, nowhere] });
    expect(faults).to.have.length(2);
    const unparked = {
      ...sound,
      bindings: sound.bindings.filter(({ queue }) => queue !== "muster.agents.unrouted"),
    };
    expect(faultsOfShape(unparked)[0]).to.match(/where no queue is bound; bind a parking queue/);
  });
});

describe("topic patterns", () => {
  const table = [
    ["vm-ops.#", "vm-ops.requests", true],
    ["vm-ops.#", "vm-ops", true],
    ["vm.#", "vm-ops.requests", false],
    ["vm.#", "vm.acme.1.commands", true],
    ["agents.*.*.hello", "agents.acme.a-1.hello", true],
    ["agents.*.*.hello", "agents.acme.hello", false],
    ["#.x.#", "a.b.x.c", true],
    ["#", "", true],
    ["*", "a.b", false],
  ] as const;
  for (const [pattern, key, fits] of table) {
    it(`${pattern} ${fits ? "takes" : "does not take"} ${key}`, () => {
      expect(topicMatches(pattern, key)).to.equal(fits);
    });
  }

  it("take themselves when they have no wildcard, and # takes all", () => {
    const keys = fc
      .array(fc.stringMatching(/^[a-z]{1,5}$/), { minLength: 1, maxLength: 5 })
      .map((w) => w.join("."));
    fc.assert(fc.property(keys, (key) => topicMatches(key, key) && topicMatches("#", key)));
  });
});
