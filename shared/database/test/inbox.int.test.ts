import { uuidv7 } from "@muster/contracts/ids";
import { expect } from "chai";
import fc from "fast-check";
import { openInbox, pruneInbox } from "../src/inbox.ts";
import { setup, type Setup } from "./things.ts";

describe("the inbox", () => {
  let kit: Setup;
  before(async () => (kit = await setup()));
  after(() => kit.destroy());

  const asMessages = (ids: readonly string[]) => ids.map((id) => ({ id, tenantId: "acme" }));

  async function effectsOf(ids: readonly string[]): Promise<number[]> {
    const rows = await kit.admin.query<{ id: string }>(
      "SELECT message_id AS id FROM effects WHERE message_id = ANY ($1)",
      [ids],
    );
    return ids.map((id) => rows.filter((row) => row.id === id).length);
  }

  async function bundle() {
    const database = await kit.open({ poolMax: 10 });
    const inbox = openInbox(database, "things.test");
    const handle = (ids: readonly string[], fail = false) =>
      inbox.runOnce(asMessages(ids), async (tx, fresh) => {
        await tx.query("INSERT INTO effects (message_id) SELECT unnest($1::text[])", [[...fresh]]);
        if (fail) throw new Error("the handler failed");
        return fresh.size;
      });
    return { database, inbox, handle };
  }

  it("answers twenty concurrent deliveries of one message with one effect", async () => {
    const { handle } = await bundle();
    const id = uuidv7();
    const fresh = await Promise.all(Array.from({ length: 20 }, () => handle([id])));
    expect(fresh.filter((n) => n === 1)).to.have.length(1);
    expect(await effectsOf([id])).to.deep.equal([1]);
  });

  it("keeps neither id nor effect of work that failed, so that the redelivery does it", async () => {
    const { handle } = await bundle();
    const id = uuidv7();
    await handle([id], true).catch(() => undefined);
    expect(await effectsOf([id])).to.deep.equal([0]);
    expect(await handle([id])).to.equal(1);
    expect(await handle([id])).to.equal(0);
    expect(await effectsOf([id])).to.deep.equal([1]);
  });

  it("gives each consumer its own first sight of a message", async () => {
    const { database, handle } = await bundle();
    const id = uuidv7();
    expect(await handle([id])).to.equal(1);
    const other = openInbox(database, "things.other");
    expect(await other.runOnce(asMessages([id]), (_tx, fresh) => Promise.resolve(fresh.size))).to.equal(1);
  });

  it("has one effect per message however batches overlap, repeat and fail", async () => {
    const { handle } = await bundle();
    await fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.record({ picks: fc.array(fc.nat(7), { minLength: 1, maxLength: 6 }), fail: fc.boolean() }),
          { minLength: 2, maxLength: 8 },
        ),
        async (batches) => {
          const ids = Array.from({ length: 8 }, () => uuidv7());
          const idsOf = (picks: readonly number[]) => picks.map((pick) => ids[pick] ?? "");
          await Promise.all(
            batches.map(({ picks, fail }) => handle(idsOf(picks), fail).catch(() => undefined)),
          );
          await handle(ids);
          expect(await effectsOf(ids)).to.deep.equal(ids.map(() => 1));
        },
      ),
      { numRuns: 15 },
    );
  });

  it("forgets what is old enough, at most so many at a time", async () => {
    const { database, handle } = await bundle();
    const [old, older, young] = [uuidv7(), uuidv7(), uuidv7()];
    await handle([old, older, young]);
    await kit.admin.query(
      "UPDATE inbox SET received_at = now() - interval '2 hours' WHERE message_id = ANY ($1)",
      [[old, older]],
    );
    expect(await pruneInbox(database, 3_600_000, 1)).to.equal(1);
    expect(await pruneInbox(database, 3_600_000, 100)).to.equal(1);
    expect(await pruneInbox(database, 3_600_000, 100)).to.equal(0);
    expect(await handle([old, older, young])).to.equal(2);
  });
});
