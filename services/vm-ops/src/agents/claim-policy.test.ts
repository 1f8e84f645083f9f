import { commandStates, isTerminal } from "@muster/contracts/commands";
import { expect } from "chai";
import { judgeClaim } from "./claim-policy.ts";
import type { Claim, Claimed, ClaimedVm } from "./claim-policy.ts";

const claim: Claim = { agentId: "agent", commandId: "c1", vmUuid: "vm", attempt: 1, epoch: 3, nonce: "n" };
const command: Claimed = {
  ...{ vmUuid: "vm", lane: "work", state: "dispatched", attempt: 1, agentId: null, nonce: null },
  ...{ expired: false, payloadBytes: 10 },
};
const vm = (change: Partial<ClaimedVm> = {}): ClaimedVm => ({
  ...{ active: true, epoch: 3, concurrency: 1, agentId: "agent", running: 0, waiting: ["c1", "c2"] },
  ...change,
});
const why = (c: Partial<Claimed> | null, v: Partial<ClaimedVm> | null = {}): string => {
  const verdict = judgeClaim(
    claim,
    c === null ? undefined : { ...command, ...c },
    v === null ? undefined : vm(v),
    100,
  );
  return verdict.kind === "deny" ? verdict.reason : verdict.kind;
};

describe("judging a claim", () => {
  it("grants the head of the VM's queue, queued or dispatched", () => {
    expect([why({}), why({ state: "queued" })]).to.deep.equal(["grant", "grant"]);
  });

  it("gives a running command again to the nonce and agent that hold it, and to no other", () => {
    expect(why({ state: "running", agentId: "agent", nonce: "n" })).to.equal("grant_again");
    expect(why({ state: "running", agentId: "agent", nonce: "m" })).to.equal("superseded");
    expect(why({ state: "running", agentId: "other", nonce: "n" })).to.equal("superseded");
  });

  it("never grants what has ended, and says how it did", () => {
    for (const state of commandStates.filter(isTerminal)) {
      const expected = state === "cancelled" || state === "expired" ? state : "superseded";
      expect(why({ state })).to.equal(expected);
      expect(why({ state, attempt: 2 })).to.equal(expected);
    }
  });

  it("refuses what is not there, not its own, over, or of another epoch", () => {
    expect(why(null)).to.equal("superseded");
    expect(why({}, null)).to.equal("superseded");
    expect(why({ vmUuid: "elsewhere" })).to.equal("superseded");
    expect(why({ attempt: 2 })).to.equal("superseded");
    expect(why({}, { agentId: "other" })).to.equal("superseded");
    expect(why({}, { agentId: null })).to.equal("retry");
    expect(why({}, { active: false })).to.equal("wrong_epoch");
    expect(why({}, { epoch: 4 })).to.equal("wrong_epoch");
    expect(why({ expired: true })).to.equal("expired");
    expect(why({ state: "awaiting_approval" })).to.equal("paused");
  });

  it("makes work wait for what runs and for what was accepted before it; control passes", () => {
    expect(why({}, { running: 1 })).to.equal("vm_busy");
    expect(why({}, { waiting: ["c0", "c1"] })).to.equal("vm_busy");
    expect(why({ lane: "control" }, { running: 1, waiting: ["c0"] })).to.equal("grant");
  });

  it("names what must start first where there is room for it, and nothing where the VM is busy", () => {
    const behind = judgeClaim(claim, command, vm({ waiting: ["c0", "c1"] }), 100);
    expect(behind).to.include({ reason: "vm_busy", first: "c0" });
    expect(judgeClaim(claim, command, vm({ running: 1 }), 100)).not.to.have.property("first");
  });

  it("asks to come again for what does not fit into this reply, and keeps its place", () => {
    const busy = vm();
    const verdict = judgeClaim(claim, command, busy, 9);
    expect(verdict).to.include({ kind: "deny", reason: "retry" });
    expect(busy).to.deep.include({ running: 0, waiting: ["c1", "c2"] });
  });

  it("notes a grant, so that the next claim of the batch is judged after it", () => {
    const shared = vm({ concurrency: 2 });
    expect(judgeClaim(claim, command, shared, 100).kind).to.equal("grant");
    expect(judgeClaim({ ...claim, commandId: "c2" }, command, shared, 100).kind).to.equal("grant");
    expect(shared).to.deep.include({ running: 2, waiting: [] });
  });
});
