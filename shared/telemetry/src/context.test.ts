import { setImmediate } from "node:timers/promises";
import { expect } from "chai";
import { childTraceparent, currentContext, isTraceparent, newTraceparent, runWith } from "./context.ts";

describe("the work context", () => {
  it("follows the work through awaits and does not leak into its neighbours", async () => {
    const seen = await Promise.all(
      ["a", "b"].map((correlationId) =>
        runWith({ correlationId }, async () => {
          await setImmediate();
          return currentContext()?.correlationId;
        }),
      ),
    );
    expect(seen).to.deep.equal(["a", "b"]);
    expect(currentContext()).to.equal(undefined);
  });
});

describe("traceparent", () => {
  it("keeps the trace and its flags, and names a new span", () => {
    const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const child = childTraceparent(parent);
    expect(child.slice(0, 35)).to.equal(parent.slice(0, 35));
    expect(child.slice(53)).to.equal("01");
    expect(child).to.not.equal(parent);
    expect(isTraceparent(child)).to.equal(true);
  });

  it("starts a new trace where the parent is missing, malformed or all zeros", () => {
    const zeros = `00-${"0".repeat(32)}-b7ad6b7169203331-01`;
    for (const parent of [undefined, "", "00-xyz", zeros]) {
      const made = childTraceparent(parent);
      expect(isTraceparent(made)).to.equal(true);
      expect(made.slice(3, 35)).to.not.equal("0".repeat(32));
    }
    expect(newTraceparent()).to.not.equal(newTraceparent());
  });
});
