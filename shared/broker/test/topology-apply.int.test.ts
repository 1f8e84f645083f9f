import { topologyOf } from "@muster/contracts/topology";
import { setupVhost, type Vhost } from "@muster/testing/vhost";
import { expect } from "chai";
import { applyTopology, planTopology, topologyDrift } from "../src/topology-apply.ts";
import { sampleMesh } from "./sample-mesh.ts";

describe("applying the topology", function () {
  this.timeout(30_000);
  let vhost: Vhost;
  const topology = topologyOf(sampleMesh);
  beforeEach(async () => {
    vhost = await setupVhost();
  });
  afterEach(() => vhost.destroy());

  it("makes everything, then has nothing left to do", async () => {
    const missing = topology.exchanges.length + topology.queues.length + topology.bindings.length;
    expect(await planTopology(topology, vhost)).to.have.length(missing + topology.policies.length);
    expect(await applyTopology(topology, vhost)).to.have.length(missing + topology.policies.length);
    expect(await planTopology(topology, vhost)).to.deep.equal([]);
    expect(await applyTopology(topology, vhost)).to.deep.equal([]);
    expect(await topologyDrift(topology, vhost)).to.equal(undefined);
  });

  it("may be run by several at once", async () => {
    await Promise.all([1, 2, 3].map(() => applyTopology(topology, vhost)));
    expect(await planTopology(topology, vhost)).to.deep.equal([]);
  });

  it("notices what was changed by hand, says what, and mends it", async () => {
    await applyTopology(topology, vhost);
    await vhost.deleteQueue("reliability.crates");
    await vhost.call("DELETE", "/policies/{vhost}/vm");
    const body = {
      pattern: "^vm-ops\\.requests$",
      definition: { "delivery-limit": 3 },
      "apply-to": "queues",
    };
    await vhost.call("PUT", "/policies/{vhost}/vm-ops.requests", body);
    const drift = await topologyDrift(topology, vhost);
    expect(drift).to.include("queue reliability.crates is missing");
    expect(drift).to.include("policy vm is missing");
    expect(drift).to.match(/policy vm-ops\.requests is not as declared .*"delivery-limit":3/);
    await applyTopology(topology, vhost);
    expect(await topologyDrift(topology, vhost)).to.equal(undefined);
  });

  it("leaves a queue of other arguments alone and says what to do", async () => {
    await vhost.call("PUT", "/queues/{vhost}/vm-ops.requests", { durable: true, arguments: {} });
    const failure: unknown = await applyTopology(topology, vhost).catch((e: unknown) => e);
    expect(failure)
      .to.have.property("message")
      .that.matches(/queue vm-ops\.requests .*drain it, delete it, then apply/);
    expect(await vhost.call("GET", "/queues/{vhost}/vm-ops.requests")).to.have.property("arguments");
  });

  it("finds a stranger's policy that would switch one of ours off", async () => {
    await applyTopology(topology, vhost);
    const body = { pattern: ".*", definition: { "max-length": 1 }, "apply-to": "all", priority: 9 };
    await vhost.call("PUT", "/policies/{vhost}/everything", body);
    expect(await topologyDrift(topology, vhost)).to.match(
      /policy everything .*delete it or narrow its pattern/,
    );
  });
});
