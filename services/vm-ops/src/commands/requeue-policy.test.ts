import { commandStates, isTerminal } from "@muster/contracts/commands";
import { expect } from "chai";
import { requeuePolicy } from "./requeue-policy.ts";
import type { Finding, RequeueVerdict, Stale } from "./requeue-policy.ts";

const stale: Stale = {
  state: "dispatched",
  attempt: 2,
  attemptOfDoorbell: 2,
  requeues: 1,
  requeuesMax: 2,
  claimRecorded: false,
};
const sweep: Finding = { hand: "sweep" };
const broker = (brokerReason: string): Finding => ({ hand: "broker", brokerReason });
const exhausted: RequeueVerdict = { kind: "dead_letter", event: "requeues_exhausted" };

describe("the requeue policy", () => {
  const cases: readonly [string, Partial<Stale>, Finding, RequeueVerdict][] = [
    ["requeues what was not claimed", {}, sweep, { kind: "requeue", reason: "unclaimed" }],
    [
      "requeues what the broker gave up",
      {},
      broker("delivery_limit"),
      { kind: "requeue", reason: "broker_gave_up" },
    ],
    [
      "requeues what grew too old in the queue",
      {},
      broker("expired"),
      { kind: "requeue", reason: "broker_gave_up" },
    ],
    [
      "requeues what a full queue dropped",
      {},
      broker("maxlen"),
      { kind: "requeue", reason: "broker_gave_up" },
    ],
    ["gives up when requeues are used up, by the sweep", { requeues: 2 }, sweep, exhausted],
    [
      "gives up when requeues are used up, by the broker",
      { requeues: 2 },
      broker("delivery_limit"),
      exhausted,
    ],
    ["gives up at once when none are allowed", { requeues: 0, requeuesMax: 0 }, sweep, exhausted],
    ["gives up beyond a limit that was lowered", { requeues: 5 }, sweep, exhausted],
    [
      "gives up at once what an agent could not read",
      { requeues: 0 },
      broker("rejected"),
      { kind: "dead_letter", event: "doorbell_unreadable" },
    ],
    [
      "ignores an older attempt's doorbell",
      { attemptOfDoorbell: 1 },
      broker("rejected"),
      { kind: "ignore", why: "superseded" },
    ],
    [
      "ignores what was claimed",
      { claimRecorded: true },
      broker("delivery_limit"),
      { kind: "ignore", why: "claimed" },
    ],
    ["ignores what runs", { state: "running" }, sweep, { kind: "ignore", why: "claimed" }],
    [
      "leaves what is not confirmed to the relay",
      { state: "queued" },
      sweep,
      { kind: "ignore", why: "not_in_queue" },
    ],
    [
      "believes the broker that it had what is not confirmed",
      { state: "queued" },
      broker("delivery_limit"),
      { kind: "requeue", reason: "broker_gave_up" },
    ],
    [
      "ignores what waits for approval",
      { state: "awaiting_approval" },
      broker("expired"),
      { kind: "ignore", why: "not_in_queue" },
    ],
  ];
  for (const [name, change, finding, verdict] of cases) {
    it(name, () => expect(requeuePolicy({ ...stale, ...change }, finding)).to.deep.equal(verdict));
  }

  it("ignores whatever has ended, whichever hand it is", () => {
    for (const state of commandStates.filter(isTerminal)) {
      for (const finding of [sweep, broker("rejected"), broker("delivery_limit")]) {
        expect(requeuePolicy({ ...stale, state }, finding)).to.deep.equal({ kind: "ignore", why: "ended" });
      }
    }
  });

  it("comes to the same verdict by both hands for what is in the queue", () => {
    for (const requeues of [0, 1, 2, 3]) {
      const kinds = [sweep, broker("delivery_limit")].map(
        (hand) => requeuePolicy({ ...stale, requeues }, hand).kind,
      );
      expect(kinds[0]).to.equal(kinds[1]);
    }
  });
});
