import { describe, it } from "mocha";
import { expect } from "chai";
import { meshWith } from "./mesh.ts";
import { topologyOf } from "./topology.ts";

/** Accepted by every RabbitMQ from 3.10 to 4.3, with one meaning. */
const argumentsKnown = ["x-queue-type", "x-single-active-consumer"];
const policyKeysKnown = [
  "alternate-exchange",
  "dead-letter-exchange",
  "dead-letter-routing-key",
  "dead-letter-strategy",
  "delivery-limit",
  "max-length",
  "message-ttl",
  "overflow",
];

for (const type of ["quorum", "classic"] as const) {
  describe(`the topology on RabbitMQ 3.10 to 4.3, with ${type} queues for VMs`, () => {
    const topology = topologyOf(meshWith({ type, deliveryLimit: 2, lengthMax: 10_000 }));

    it("uses no argument and no policy key that any of them refuses or ignores", () => {
      for (const queue of topology.queues) {
        expect(argumentsKnown, queue.name).to.include.members(Object.keys(queue.arguments));
      }
      for (const policy of topology.policies) {
        expect(policyKeysKnown, policy.name).to.include.members(Object.keys(policy.definition));
      }
    });

    it("sets each value whose default differs between them", () => {
      for (const queue of topology.queues) {
        expect(queue.arguments["x-queue-type"], queue.name).to.equal("quorum");
        const policy = topology.policies.find(
          ({ appliesTo, pattern }) => appliesTo === "queues" && new RegExp(pattern).test(queue.name),
        );
        expect(policy?.definition["delivery-limit"], queue.name).to.be.a("number").that.is.at.least(1);
        if (policy?.definition["max-length"] !== undefined) {
          expect(policy.definition["overflow"], queue.name).to.equal("reject-publish");
        }
      }
      const vm = topology.policies.find(({ name }) => name === "vm")?.definition ?? {};
      expect(vm["overflow"]).to.equal("reject-publish");
      expect(vm["delivery-limit"]).to.equal(type === "quorum" ? 2 : undefined);
    });
  });
}
