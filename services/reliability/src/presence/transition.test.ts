import { expect } from "chai";
import fc from "fast-check";
import { nextHeartbeatMs } from "./interval.ts";
import { afterHeartbeat, type PresenceState, type Transition } from "./transition.ts";

const states: PresenceState[] = ["online", "suspect", "lost", "stopped"];
const at = (state: PresenceState, generation = 5) => ({ state, generation });

describe("a heartbeat", () => {
  const heed = (state: "online" | "stopped", event: "recovered" | "stopped" | null): Transition => ({
    heed: true,
    state,
    event,
  });
  const table: [PresenceState | undefined, "beat" | "last word", "same" | "newer", Transition][] = [
    [undefined, "beat", "same", heed("online", "recovered")],
    [undefined, "last word", "same", heed("stopped", "stopped")],
    ["online", "beat", "same", heed("online", null)],
    ["online", "last word", "same", heed("stopped", "stopped")],
    ["online", "beat", "newer", heed("online", null)],
    ["suspect", "beat", "same", heed("online", null)],
    ["suspect", "last word", "same", heed("stopped", "stopped")],
    ["lost", "beat", "same", heed("online", "recovered")],
    ["lost", "last word", "same", heed("stopped", null)],
    ["stopped", "beat", "same", { heed: false }],
    ["stopped", "last word", "same", heed("stopped", null)],
    ["stopped", "beat", "newer", heed("online", "recovered")],
  ];
  for (const [state, kind, generation, expected] of table) {
    it(`makes of ${state ?? "nothing"} by a ${kind} of the ${generation} session what the table says`, () => {
      const known = state === undefined ? undefined : at(state);
      const heard = { generation: generation === "same" ? 5 : 6, stopping: kind === "last word" };
      expect(afterHeartbeat(known, heard)).to.deep.equal(expected);
    });
  }

  it("of an older session says nothing, whatever is known", () => {
    for (const state of states) {
      for (const stopping of [true, false]) {
        expect(afterHeartbeat(at(state), { generation: 4, stopping })).to.deep.equal({ heed: false });
      }
    }
  });

  it("tells of a change exactly when there is one between being there and being gone", () => {
    const known = fc.option(
      fc.record({ state: fc.constantFrom(...states), generation: fc.integer({ min: 1, max: 9 }) }),
      { nil: undefined },
    );
    const heard = fc.record({ generation: fc.integer({ min: 1, max: 9 }), stopping: fc.boolean() });
    fc.assert(
      fc.property(known, heard, (before, word) => {
        const after = afterHeartbeat(before, word);
        if (!after.heed) return;
        const was = before !== undefined && before.state !== "lost" && before.state !== "stopped";
        const is = after.state === "online";
        if (was !== is) expect(after.event).to.equal(is ? "recovered" : "stopped");
        else if (before !== undefined) expect(after.event).to.equal(null);
      }),
    );
  });
});

describe("the interval that agents are told", () => {
  const bounds = {
    heartbeatMs: 15_000,
    suspectAfterMs: 45_000,
    lostAfterMs: 120_000,
    heartbeatsPerSecondMax: 500,
  };

  it("is the plain one for a small fleet and longer for a large one", () => {
    expect(nextHeartbeatMs(0, bounds)).to.equal(15_000);
    expect(nextHeartbeatMs(7_500, bounds)).to.equal(15_000);
    expect(nextHeartbeatMs(10_000, bounds)).to.equal(20_000);
  });

  it("never makes one lost heartbeat suspicious", () => {
    fc.assert(
      fc.property(fc.nat(10_000_000), (agents) => {
        expect(nextHeartbeatMs(agents, bounds) * 2).to.be.at.most(bounds.suspectAfterMs);
      }),
    );
  });
});
