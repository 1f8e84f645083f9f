import { expect } from "chai";
import { createMetrics } from "./metrics.ts";

describe("metrics", () => {
  it("are one instrument per name, however often they are asked for", async () => {
    const metrics = createMetrics({ service: "test" });
    const asked = { name: "muster_things_total", help: "Things.", labels: ["outcome"] };
    metrics.counter(asked).inc({ outcome: "ok" });
    metrics.counter(asked).inc({ outcome: "ok" });
    const text = await metrics.registry.metrics();
    expect(text).to.include('muster_things_total{outcome="ok",service="test"} 2');
  });

  it("refuse a name in another shape or of another kind", () => {
    const metrics = createMetrics({ service: "test" });
    metrics.counter({ name: "muster_things_total", help: "Things." });
    const other = { name: "muster_things_total", help: "Things.", labels: ["outcome"] };
    expect(() => metrics.counter(other)).to.throw("exists as counter()");
    expect(() => metrics.gauge({ name: "muster_things_total", help: "x" })).to.throw("_total");
  });

  for (const label of [
    "tenant",
    "tenant_id",
    "vm",
    "vm_uuid",
    "command_id",
    "agent_id",
    "request_id",
    "path",
  ]) {
    it(`refuse the label ${label}, whose values have no bound`, () => {
      const metrics = createMetrics({ service: "test" });
      const asked = { name: "muster_things_total", help: "Things.", labels: [label] };
      expect(() => metrics.counter(asked)).to.throw("no bounded set");
    });
  }

  it("include the process: event-loop lag, heap, garbage collection", async () => {
    const text = await createMetrics({ service: "test" }).registry.metrics();
    for (const name of [
      "nodejs_eventloop_lag_seconds",
      "nodejs_heap_size_used_bytes",
      "nodejs_gc_duration",
    ]) {
      expect(text).to.include(name);
    }
  });
});
