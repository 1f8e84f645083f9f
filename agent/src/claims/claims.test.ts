import { expect } from "chai";
import { denyReasons } from "@muster/contracts/agents";
import { isFinal } from "./claims.ts";

describe("a denied claim", () => {
  it("is final for every reason but those that say later", () => {
    const later = denyReasons.filter((reason) => !isFinal({ reason }));
    expect(later).to.deep.equal(["vm_busy", "paused", "retry"]);
  });
});
