import { uuidv7 } from "@muster/contracts/ids";
import type { PreparedMessage, PublishVerdict } from "@muster/contracts/message";
import { eventually } from "@muster/testing/eventually";
import { expect } from "chai";
import fc from "fast-check";
import { message, routed, setup, type Setup } from "./things.ts";

const verdict = fc.constantFrom<PublishVerdict["kind"]>(
  "routed",
  "routed",
  "nacked",
  "unknown",
  "unroutable",
  "refused",
);

/** One broker for all relays: it remembers the order in which messages were first routed. */
function sharedBroker(script: readonly { kind: PublishVerdict["kind"]; delayMs: number; lands: boolean }[]) {
  const firstRouted: string[] = [];
  const seen = new Set<string>();
  let turn = 0;
  const land = (id: string) => {
    if (!seen.has(id)) firstRouted.push(id);
    seen.add(id);
  };
  return {
    firstRouted,
    publish: async (one: PreparedMessage): Promise<PublishVerdict> => {
      const step = script[turn++];
      if (step === undefined) {
        land(one.id);
        return routed;
      }
      await new Promise((resolve) => setTimeout(resolve, step.delayMs));
      if (step.kind === "routed") {
        land(one.id);
        return routed;
      }
      // An unknown verdict may hide a message that arrived.
      if (step.kind === "unknown" && step.lands) land(one.id);
      return { kind: step.kind, reason: "by test" };
    },
  };
}

describe("the outbox, whatever becomes of publishes", () => {
  let kit: Setup;
  before(async () => (kit = await setup()));
  after(() => kit.destroy());

  for (const relays of [1, 2, 3]) {
    it(`brings every message to the broker, each key in its order, with ${relays} relays on one table`, async () => {
      const databases = await Promise.all(Array.from({ length: relays }, () => kit.open({ poolMax: 3 })));
      await fc.assert(
        fc.asyncProperty(
          fc.array(fc.record({ kind: verdict, delayMs: fc.nat(4), lands: fc.boolean() }), { maxLength: 40 }),
          fc.array(fc.record({ key: fc.nat(3), relay: fc.nat(relays - 1) }), { minLength: 5, maxLength: 30 }),
          fc.record({ graceMs: fc.constantFrom(40, 300), pendingMax: fc.constantFrom(3, 1_000) }),
          async (script, writes, limits) => {
            const end = sharedBroker(script);
            const open = await Promise.all(
              databases.map((database) =>
                kit.relay(database, { publish: end.publish, pollMs: 20, pollBatch: 7, window: 4, ...limits }),
              ),
            );
            const written = writes.map(({ key, relay }) => ({
              relay,
              one: message({ id: uuidv7(), orderingKey: `key-${key}` }),
            }));
            for (const { one, relay } of written) {
              await databases[relay]?.transaction({ tenants: ["acme"] }, async (tx) => tx.publish(one));
            }
            await eventually(async () => (await kit.outboxIds()).length === 0, 20_000);
            await Promise.all(open.map((relay) => relay.close()));
            for (let key = 0; key < 4; key++) {
              const mine = written
                .filter(({ one }) => one.orderingKey === `key-${key}`)
                .map(({ one }) => one.id);
              expect(end.firstRouted.filter((id) => mine.includes(id))).to.deep.equal(mine);
            }
          },
        ),
        { numRuns: 12, endOnFailure: true },
      );
    });
  }

  it("keeps a key's order when processes take turns in writing it as fast as they can", async () => {
    const [even, odd] = [await kit.open(), await kit.open()];
    const databases = [even, odd];
    const databaseOf = (n: number) => (n % 2 === 0 ? even : odd);
    const end = sharedBroker([]);
    const open = await Promise.all(
      databases.map((database) => kit.relay(database, { publish: end.publish })),
    );
    const keys = Array.from({ length: 5 }, (_, n) => `turn-${n}`);
    await kit.admin.query("INSERT INTO things SELECT gen_random_uuid(), 'acme', unnest($1::text[])", [keys]);
    const order = new Map<string, string[]>(keys.map((key) => [key, []]));
    // What makes an order between transactions is the row they lock.
    const write = (n: number, key: string) =>
      databaseOf(n).transaction("system", async (tx) => {
        const [row] = await tx.query<{ amount: number }>(
          "UPDATE things SET amount = amount + 1 WHERE label = $1 RETURNING amount",
          [key],
        );
        const one = message({ orderingKey: key });
        const ids = order.get(key) ?? [];
        ids[(row?.amount ?? 0) - 1] = one.id;
        tx.publish(one);
      });
    await Promise.all(keys.flatMap((key) => Array.from({ length: 40 }, (_, n) => write(n, key))));
    await eventually(async () => (await kit.outboxIds()).length === 0, 20_000);
    for (const key of keys) {
      const ids = order.get(key) ?? [];
      expect(end.firstRouted.filter((id) => ids.includes(id))).to.deep.equal(ids);
    }
    await Promise.all(open.map((relay) => relay.close()));
  });
});
