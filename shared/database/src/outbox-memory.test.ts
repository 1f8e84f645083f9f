import type { PreparedMessage } from "@muster/contracts/message";
import { expect } from "chai";
import fc from "fast-check";
import { OutboxMemory, type OutboxEntry } from "./outbox-memory.ts";

const message = (id: number): PreparedMessage => ({
  id: `m-${id}`,
  type: "t",
  exchange: "",
  routingKey: "q",
  orderingKey: null,
  tenantId: null,
  body: "12345",
  headers: {},
});

const leaseMs = 100;

function setup() {
  const memory = new OutboxMemory();
  const add = (id: number, after: number | null = null, path: "memory" | "poll" = "memory") =>
    memory.add({ id, message: message(id), after }, path, 0, leaseMs);
  const take = (): OutboxEntry[] => {
    const taken: OutboxEntry[] = [];
    for (let entry = memory.next(); entry !== undefined; entry = memory.next()) taken.push(entry);
    return taken;
  };
  const ids = () => take().map((entry) => entry.id);
  return { memory, add, take, ids };
}

function only(entries: readonly OutboxEntry[]): OutboxEntry {
  const [entry] = entries;
  if (entry === undefined || entries.length !== 1) throw new Error(`${entries.length} entries, not one`);
  return entry;
}

describe("the outbox's memory", () => {
  it("gives out in the order of arrival, and each entry once", () => {
    const { add, ids } = setup();
    for (const id of [3, 1, 2]) add(id);
    add(1);
    expect(ids()).to.deep.equal([3, 1, 2]);
    expect(ids()).to.deep.equal([]);
  });

  it("holds a follower until its predecessor is done, also when it came first", () => {
    const { memory, add, take, ids } = setup();
    add(2, 1);
    expect(ids()).to.deep.equal([]);
    expect(memory.foreign()).to.deep.equal([1]);
    add(1);
    expect(memory.foreign()).to.deep.equal([]);
    const first = only(take());
    memory.rest(first);
    expect(ids()).to.deep.equal([]);
    memory.wake(first);
    memory.done(only(take()));
    expect(ids()).to.deep.equal([2]);
  });

  it("lets a follower go when its predecessor is found gone from the table", () => {
    const { memory, add, ids } = setup();
    add(2, 1);
    memory.gone(1);
    add(4, 1);
    expect(ids()).to.deep.equal([2, 4]);
  });

  it("forgets an entry together with all that wait for it", () => {
    const { memory, add, take, ids } = setup();
    add(1);
    add(2, 1);
    add(3, 2);
    const first = only(take());
    expect(memory.forget(first).map((entry) => entry.id)).to.deep.equal([1, 2, 3]);
    expect(memory).to.include({ size: 0, bytes: 0, publishing: 0 });
    memory.wake(first);
    expect(ids()).to.deep.equal([]);
  });

  it("forgets what outstays its lease, but nothing that is being published", () => {
    const { memory, add, take, ids } = setup();
    add(1);
    const first = only(take());
    add(2);
    add(3, 9);
    memory.expire(leaseMs - 1);
    expect(memory.size).to.equal(3);
    memory.expire(leaseMs);
    expect(memory.size).to.equal(1);
    expect(memory.foreign()).to.deep.equal([]);
    expect(ids()).to.deep.equal([]);
    memory.done(first);
    expect(memory.size).to.equal(0);
  });

  it("does not take a row again that it knows to be routed", () => {
    const { memory, add, take, ids } = setup();
    add(1);
    memory.done(only(take()));
    add(1, null, "poll");
    expect(ids()).to.deep.equal([]);
    expect(memory.size).to.equal(0);
  });

  it("keeps its counts right, and never gives out a follower early, whatever happens", () => {
    const step = fc.record({
      what: fc.constantFrom("add", "done", "rest", "wake", "forget"),
      pick: fc.nat(50),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const { memory, add } = setup();
        const out: OutboxEntry[] = [];
        const resting: OutboxEntry[] = [];
        const finished = new Set<number>();
        const before = new Map<number, number | null>();
        let last = 0;
        for (const { what, pick } of steps) {
          const entry = out.length > 0 ? out.splice(pick % out.length, 1)[0] : undefined;
          if (what === "add") {
            const id = ++last;
            const after = id > 3 ? id - 3 : null;
            before.set(id, after);
            add(id, after, pick % 2 === 0 ? "memory" : "poll");
          } else if (what === "wake") {
            for (const one of resting.splice(0)) memory.wake(one);
          } else if (entry !== undefined) {
            if (what === "done") {
              memory.done(entry);
              finished.add(entry.id);
            } else if (what === "rest") {
              memory.rest(entry);
              resting.push(entry);
            } else memory.forget(entry);
          }
          if (entry !== undefined && !["done", "rest", "forget"].includes(what)) out.push(entry);
          const next = memory.next();
          if (next !== undefined) {
            const after = before.get(next.id) ?? null;
            expect(after === null || finished.has(after)).to.equal(true);
            out.push(next);
          }
          expect(memory.publishing).to.equal(out.length);
          expect(memory.bytes).to.equal(memory.size * 5);
        }
      }),
    );
  });
});
