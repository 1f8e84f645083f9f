import { commandStates, effects, reasons } from "@muster/contracts/commands";
import type { Effect } from "@muster/contracts/commands";
import { expect } from "chai";
import fc from "fast-check";
import { join } from "./effect.ts";
import { machineMarkdown } from "./machine-markdown.ts";
import { decide, isOver, machine, machineEvents } from "./machine.ts";
import type { Happening, Life, LifeState } from "./machine.ts";

const lifeStates: readonly LifeState[] = ["requested", ...commandStates];
const born: Life = {
  state: "requested",
  attempt: 1,
  requeues: 0,
  desired: "run",
  reason: "accepted",
  effect: "none",
  effectCarried: "none",
  late: false,
  resultStored: false,
};
const happenings: fc.Arbitrary<Happening> = fc.record({
  event: fc.constantFrom(...machineEvents),
  reason: fc.constantFrom(...reasons),
  effect: fc.constantFrom(...effects),
});
/** Bent towards what really happens, so that lives get long. */
const lives = fc
  .tuple(
    fc.constantFrom<Happening>({ event: "accepted" }, { event: "approval_required" }),
    fc.array(happenings, { maxLength: 60 }),
  )
  .map(([first, rest]) => [first, ...rest]);

function walk(
  events: readonly Happening[],
  visit: (before: Life, happening: Happening, after: Life, moved: boolean) => void,
): void {
  let life: Life = born;
  for (const happening of events) {
    const decision = decide(life, happening);
    const after: Life = decision.kind === "moved" ? decision.life : life;
    visit(life, happening, after, decision.kind === "moved");
    life = after;
  }
}

/** How much an effect admits to not knowing or to having done. */
const said: Readonly<Record<Effect, number>> = { none: 0, partial: 1, unknown: 2, applied: 2 };

describe("the state machine of commands", () => {
  it("has an answer for every pair of state and event", () => {
    for (const event of machineEvents) {
      expect(Object.keys(machine[event]).sort(), event).to.deep.equal([...lifeStates].sort());
    }
  });

  it("leaves a terminal state only for a replay or a correction by the result of a claim judged without one", () => {
    fc.assert(
      fc.property(lives, (events) =>
        walk(events, (before, { event }, after, moved) => {
          if (!isOver(before.state) || !moved) return;
          if (event === "replay") expect(before.state).to.equal("dead_lettered");
          else {
            expect(event).to.match(/^result_/);
            expect(before).to.include({ effect: "unknown", resultStored: false });
            expect(after).to.include({ late: true, resultStored: true });
            expect(isOver(after.state)).to.equal(true);
          }
        }),
      ),
      { numRuns: 2_000 },
    );
  });

  it("never lowers the attempt, and starts a new one only by a requeue, an abandoned start or a replay", () => {
    fc.assert(
      fc.property(lives, (events) =>
        walk(events, (before, { event }, after) => {
          expect(after.attempt - before.attempt).to.be.within(0, 1);
          if (after.attempt > before.attempt) {
            expect(event).to.be.oneOf(["requeue", "result_abandoned", "replay"]);
            expect(after).to.include({ state: "queued", desired: "run", resultStored: false });
          }
        }),
      ),
      { numRuns: 1_000 },
    );
  });

  it("never claims more of the effect than is known", () => {
    fc.assert(
      fc.property(lives, (events) =>
        walk(events, (before, { event, effect }, after) => {
          // A claim that was granted and whose end nobody reported may have done anything.
          if (after.state === "running") expect(after.effect).to.equal("unknown");
          if (
            before.state === "running" &&
            isOver(after.state) &&
            !after.resultStored &&
            event !== "abandons_exhausted"
          ) {
            expect(after.effect).to.equal("unknown");
          }
          // What earlier attempts may have left is never forgotten.
          expect(said[after.effect]).to.be.least(said[after.effectCarried] === 0 ? 0 : 1);
          if (after.effectCarried === "unknown") expect(after.effect).to.be.oneOf(["unknown", "applied"]);
          if (event === "result_succeeded" && after.resultStored && !before.resultStored) {
            expect(after.effect).to.equal(join(before.effectCarried, effect ?? "unknown"));
          }
        }),
      ),
      { numRuns: 2_000 },
    );
  });

  it("changes nothing when it refuses", () => {
    fc.assert(
      fc.property(lives, (events) =>
        walk(events, (before, _happening, after, moved) => {
          if (!moved) expect(after).to.equal(before);
        }),
      ),
    );
  });

  it("counts requeues by requeues alone", () => {
    fc.assert(
      fc.property(lives, (events) =>
        walk(events, (before, { event }, after, moved) => {
          if (!moved || event === "replay") return;
          expect(after.requeues - before.requeues).to.equal(event === "requeue" ? 1 : 0);
        }),
      ),
    );
  });

  it("can reach every state and end from every state that is not terminal", () => {
    const reached = new Set<LifeState>(["requested"]);
    for (let before = 0; before < reached.size;) {
      before = reached.size;
      for (const event of machineEvents) {
        for (const from of [...reached]) {
          const cell = machine[event][from];
          if ("to" in cell) reached.add(cell.to);
        }
      }
    }
    expect([...reached].sort()).to.deep.equal([...lifeStates].sort());
    for (const from of lifeStates.filter((state) => !isOver(state))) {
      const leaves = machineEvents.some((event) => "to" in machine[event][from]);
      expect(leaves, from).to.equal(true);
    }
  });

  it("draws itself with every move and every refusal", () => {
    const page = machineMarkdown();
    expect(page).to.include("[*] --> queued: accepted");
    expect(page).to.include("dead_lettered --> queued: replay");
    for (const event of machineEvents) expect(page).to.include(`| \`${event}\` |`);
  });
});

describe("joined effects", () => {
  it("say no less than either part", () => {
    for (const carried of effects) {
      expect(join("none", carried)).to.equal(carried);
      expect(join(carried, "applied")).to.equal("applied");
      expect(join(carried, "none")).to.equal(carried);
    }
    expect(join("unknown", "partial")).to.equal("unknown");
    expect(join("partial", "unknown")).to.equal("unknown");
    expect(join("partial", "partial")).to.equal("partial");
  });
});
