import { commandStates, isTerminal } from "@muster/contracts/commands";
import { expect } from "chai";
import { waitingFor } from "./waiting-for.ts";
import type { Situation } from "./waiting-for.ts";

const now: Situation = {
  ...{ state: "dispatched", desired: "run", lane: "work", agentKnown: true, agentOnline: true },
  ...{ agentQuarantined: false, earlier: null },
};
const code = (change: Partial<Situation>) => waitingFor({ ...now, ...change })?.code;

describe("what a command waits for", () => {
  it("is said for every state that has not ended, and for no other", () => {
    for (const state of commandStates) {
      expect(waitingFor({ ...now, state }) === null, state).to.equal(isTerminal(state));
    }
  });

  it("is the first thing that stands in its way", () => {
    const earlier = { id: "c0", state: "running" } as const;
    expect(code({ agentKnown: false, agentOnline: false, earlier })).to.equal("no_agent");
    expect(code({ agentOnline: false, earlier })).to.equal("agent_offline");
    expect(code({ agentQuarantined: true })).to.equal("agent_offline");
    expect(code({ earlier })).to.equal("earlier_command");
    expect(code({ earlier, lane: "control" })).to.equal("claim");
    expect(code({ state: "queued" })).to.equal("broker");
    expect(code({ state: "running" })).to.equal("result");
    expect(code({ state: "running", desired: "cancel" })).to.equal("cancel");
  });
});
