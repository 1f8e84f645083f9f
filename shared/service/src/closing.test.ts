import { expect } from "chai";
import fc from "fast-check";
import { closeInReverse, once } from "./closing.ts";
import { ReadinessBoard } from "./readiness.ts";

type Kind = "good" | "slow" | "throws" | "rejects" | "stuck";

/** One resource of each temper, writing down when it was closed. */
function resource(kind: Kind, name: string, closed: string[]) {
  const close = once(() => {
    closed.push(name);
    if (kind === "throws") throw new Error(`${name} threw`);
    if (kind === "rejects") return Promise.reject(new Error(`${name} rejected`));
    if (kind === "stuck") return new Promise<void>(() => undefined);
    return kind === "slow" ? new Promise<void>((resolve) => setTimeout(resolve, 2)) : Promise.resolve();
  });
  return { name, closeable: { close } };
}

describe("closing", () => {
  it("goes through any mix of resources in reverse order, each asked once, and names what did not close", async () => {
    const kinds = fc.array(fc.constantFrom<Kind>("good", "slow", "throws", "rejects"), { maxLength: 8 });
    await fc.assert(
      fc.asyncProperty(kinds, async (made) => {
        const closed: string[] = [];
        const owned = made.map((kind, i) => resource(kind, `${kind}-${i}`, closed));
        const outcomes = await closeInReverse(owned, 5_000);
        expect(closed).to.deep.equal(owned.map(({ name }) => name).reverse());
        for (const { name, outcome, error } of outcomes) {
          const failing = /^(throws|rejects)/.test(name);
          expect(outcome).to.equal(failing ? "failed" : "closed");
          expect(error instanceof Error).to.equal(failing);
        }
      }),
      { numRuns: 50 },
    );
  });

  it("cuts what is stuck, names it, and still closes the rest", async () => {
    const closed: string[] = [];
    const kinds: Kind[] = ["good", "stuck", "slow"];
    const owned = kinds.map((kind) => resource(kind, kind, closed));
    const outcomes = await closeInReverse(owned, 20);
    expect(outcomes.map(({ name, outcome }) => `${name} ${outcome}`)).to.deep.equal([
      "slow closed",
      "stuck stuck",
      "good closed",
    ]);
  });

  it("closes a thing once, however often and from wherever it is asked", async () => {
    const closed: string[] = [];
    const { closeable } = resource("slow", "it", closed);
    await Promise.all([closeable.close(), closeable.close()]);
    await closeable.close();
    expect(closed).to.deep.equal(["it"]);
  });
});

describe("readiness", () => {
  it("needs the phase ready and every dependency well, and gives each one's reason by name", async () => {
    const board = new ReadinessBoard();
    const broker = { ok: false };
    board.watch("broker", () => (broker.ok ? { ok: true } : { ok: false, reason: "reconnecting" }));
    board.watch("database", () => Promise.resolve({ ok: true }));
    expect((await board.read()).ready).to.equal(false);
    board.advance("ready");
    expect(await board.read()).to.deep.equal({
      ready: false,
      phase: "ready",
      dependencies: { broker: { ok: false, reason: "reconnecting" }, database: { ok: true } },
    });
    broker.ok = true;
    expect((await board.read()).ready).to.equal(true);
    board.advance("draining");
    expect((await board.read()).ready).to.equal(false);
    board.advance("ready");
    expect(board.phase).to.equal("draining");
  });

  it("takes a health check that throws for not well", async () => {
    const board = new ReadinessBoard();
    board.watch("x", () => {
      throw new Error("broken");
    });
    board.watch("y", () => Promise.reject(new Error("rejected")));
    expect((await board.read()).dependencies).to.deep.equal({
      x: { ok: false, reason: "broken" },
      y: { ok: false, reason: "rejected" },
    });
  });

  it("refuses two dependencies of one name", () => {
    const board = new ReadinessBoard();
    board.watch("x", () => ({ ok: true }));
    expect(() => board.watch("x", () => ({ ok: true }))).to.throw("name them apart");
  });
});
