import { eventually } from "@muster/testing/eventually";
import { expect } from "chai";
import { openHints } from "./hints.ts";

function setup() {
  const sent: string[] = [];
  const hints = openHints({ hint: (_exchange, commandId) => void sent.push(commandId) });
  return { sent, hints };
}

describe("hints", () => {
  it("go at once the first time, and together after that", async () => {
    const { sent, hints } = setup();
    for (let n = 0; n < 5; n++) hints.changed("a");
    expect(sent).to.deep.equal(["a"]);
    await eventually(() => sent.length === 2);
    await hints.close();
    expect(sent).to.deep.equal(["a", "a"]);
  });

  it("are bounded in rate; what waits longest goes first, and what waits too long is dropped", async () => {
    const { sent, hints } = setup();
    for (let n = 0; n < 5_000; n++) hints.changed(`c${n}`);
    expect(sent).to.have.length(50);
    await eventually(() => sent.length >= 100);
    expect(sent.slice(50, 100)).to.deep.equal(Array.from({ length: 50 }, (_, n) => `c${50 + n}`));
    await hints.close();
    expect(new Set(sent).size).to.equal(1_000);
  });
});
