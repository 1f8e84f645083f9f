import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { uuidv7 } from "@muster/contracts/ids";
import type { PreparedMessage, PublishVerdict } from "@muster/contracts/message";
import { eventually } from "@muster/testing/eventually";
import { expect } from "chai";
import type { OutboxRow } from "../src/outbox.ts";
import { message, publishOne, routed, setup, type Setup } from "./things.ts";

const bad = (kind: Exclude<PublishVerdict["kind"], "routed">): PublishVerdict => ({
  kind,
  reason: "by test",
});

/** A broker's end that answers with the verdicts it is given, in turn, and then routes all. */
function broker(verdicts: PublishVerdict[] = []) {
  const sent: { id: string; verdict: string }[] = [];
  return {
    sent,
    ids: () => sent.map((one) => one.id),
    routedIds: () => sent.filter((one) => one.verdict === "routed").map((one) => one.id),
    publish: (one: PreparedMessage): Promise<PublishVerdict> => {
      const verdict = verdicts.shift() ?? routed;
      sent.push({ id: one.id, verdict: verdict.kind });
      return Promise.resolve(verdict);
    },
  };
}

/** A publish that waits to be answered. */
function gate() {
  const waiting: { id: string; answer: (verdict: PublishVerdict) => void }[] = [];
  return {
    waiting,
    publish: (one: PreparedMessage) =>
      new Promise<PublishVerdict>((answer) => waiting.push({ id: one.id, answer })),
  };
}

describe("the outbox relay", () => {
  let kit: Setup;
  beforeEach(async () => (kit = await setup()));
  afterEach(() => kit.destroy());

  const empty = () => eventually(async () => (await kit.outboxIds()).length === 0);

  it("publishes from memory right after the commit, without waiting for a poll", async () => {
    const database = await kit.open();
    const end = broker();
    await kit.relay(database, { publish: end.publish, pollMs: 60_000 });
    const one = message();
    await publishOne(database, one);
    await empty();
    expect(end.ids()).to.deep.equal([one.id]);
  });

  it("publishes nothing of a transaction that was rolled back", async () => {
    const database = await kit.open();
    const end = broker();
    await kit.relay(database, { publish: end.publish });
    await database
      .transaction({ tenants: ["acme"] }, async (tx) => {
        tx.publish(message());
        await Promise.reject(new Error("no"));
      })
      .catch(() => undefined);
    const sentinel = message();
    await publishOne(database, sentinel);
    await empty();
    expect(end.ids()).to.deep.equal([sentinel.id]);
  });

  it("publishes what a killed process had committed and not published, in its order", async () => {
    const ids = [uuidv7(), uuidv7(), uuidv7()];
    const child = spawn(
      process.execPath,
      [fileURLToPath(new URL("dying-publisher.js", import.meta.url)), kit.base.urlFor("things"), ...ids],
      { stdio: ["ignore", "pipe", "inherit"] },
    );
    await once(child.stdout, "data");
    child.kill("SIGKILL");
    await once(child, "exit");
    expect(await kit.outboxIds()).to.deep.equal(ids);
    const end = broker();
    await kit.relay(await kit.open(), { publish: end.publish });
    await empty();
    expect(end.ids()).to.deep.equal(ids);
  });

  it("takes up at once what was written where no relay runs", async () => {
    const writer = await kit.open();
    const messages = Array.from({ length: 1_200 }, () => message());
    await writer.transaction("system", async (tx) => tx.publish(...messages));
    const end = broker();
    await kit.relay(await kit.open(), {
      publish: end.publish,
      pollMs: 60_000,
      graceMs: 60_000,
      pollBatch: 500,
    });
    await empty();
    expect(end.ids()).to.deep.equal(messages.map((one) => one.id));
  });

  for (const kind of ["unknown", "nacked", "unroutable", "refused"] as const) {
    it(`sends a message whose verdict is ${kind} again, with the same id, from memory and from the table`, async () => {
      const database = await kit.open();
      const end = broker(Array.from({ length: 6 }, () => bad(kind)));
      await kit.relay(database, { publish: end.publish });
      const one = message();
      await publishOne(database, one);
      await empty();
      expect(new Set(end.ids())).to.deep.equal(new Set([one.id]));
      expect(end.sent.map((sent) => sent.verdict)).to.deep.equal([
        ...Array.from({ length: 6 }, () => kind),
        "routed",
      ]);
    });
  }

  it("writes down why a message does not get through", async () => {
    const database = await kit.open();
    await kit.relay(database, { publish: () => Promise.resolve(bad("nacked")), graceMs: 60_000 });
    await publishOne(database, message());
    const row = await eventually(async () => {
      const rows = await kit.admin.query<{ attempts: number; last_verdict: string | null }>(
        "SELECT attempts, last_verdict FROM outbox",
      );
      return rows[0]?.last_verdict === null ? undefined : rows[0];
    });
    expect(row).to.deep.equal({ attempts: 4, last_verdict: "nacked: by test" });
  });

  it("treats a publish that throws as unknown", async () => {
    const database = await kit.open();
    let calls = 0;
    await kit.relay(database, {
      publish: () => (++calls === 1 ? Promise.reject(new Error("socket")) : Promise.resolve(routed)),
    });
    await publishOne(database, message());
    await empty();
    expect(calls).to.equal(2);
  });

  it("holds later messages of a key until the earlier one is routed, and no other key", async () => {
    const database = await kit.open();
    const end = gate();
    await kit.relay(database, { publish: end.publish, graceMs: 60_000 });
    const [a1, a2, b1] = [
      message({ orderingKey: "a" }),
      message({ orderingKey: "a" }),
      message({ orderingKey: "b" }),
    ];
    for (const one of [a1, a2, b1]) await publishOne(database, one);
    await eventually(() => end.waiting.length === 2);
    expect(end.waiting.map((one) => one.id)).to.deep.equal([a1.id, b1.id]);
    end.waiting[1]?.answer(routed);
    end.waiting[0]?.answer(bad("nacked"));
    await eventually(() => end.waiting.length === 3);
    expect(end.waiting[2]?.id, "the failed one again, before its follower").to.equal(a1.id);
    end.waiting[2]?.answer(routed);
    await eventually(() => end.waiting.length === 4);
    expect(end.waiting[3]?.id).to.equal(a2.id);
    end.waiting[3]?.answer(routed);
    await empty();
  });

  it("waits for another process's earlier message of the key", async () => {
    const [first, second] = [await kit.open(), await kit.open()];
    const [slow, quick] = [gate(), broker()];
    await kit.relay(first, { publish: slow.publish, graceMs: 60_000 });
    await kit.relay(second, { publish: quick.publish, graceMs: 60_000 });
    const [a1, a2, b1] = [
      message({ orderingKey: "a" }),
      message({ orderingKey: "a" }),
      message({ orderingKey: "b" }),
    ];
    await publishOne(first, a1);
    await publishOne(second, a2);
    await publishOne(second, b1);
    await eventually(() => quick.sent.length === 1);
    expect(quick.ids()).to.deep.equal([b1.id]);
    slow.waiting[0]?.answer(routed);
    await empty();
    expect(quick.ids()).to.deep.equal([b1.id, a2.id]);
  });

  it("drops what its owner calls undeliverable, and lets its followers go", async () => {
    const database = await kit.open();
    const end = broker([bad("unroutable")]);
    await kit.relay(database, { publish: end.publish, onUnroutable: () => Promise.resolve("drop") });
    const [gone, next] = [message({ orderingKey: "a" }), message({ orderingKey: "a" })];
    await database.transaction("system", async (tx) => tx.publish(gone, next));
    await empty();
    expect(end.sent).to.deep.equal([
      { id: gone.id, verdict: "unroutable" },
      { id: next.id, verdict: "routed" },
    ]);
  });

  it("asks before it resends an unroutable message, so that its queue can be made again", async () => {
    const database = await kit.open();
    let queueExists = false;
    await kit.relay(database, {
      publish: () => Promise.resolve(queueExists ? routed : bad("unroutable")),
      onUnroutable: () => {
        queueExists = true;
        return Promise.resolve("retry");
      },
    });
    await publishOne(database, message());
    await empty();
  });

  it("settles a routed message in the transaction that deletes its row", async () => {
    const database = await kit.open();
    const ids = [uuidv7(), uuidv7(), uuidv7()];
    let failing = true;
    await kit.relay(database, {
      publish: broker().publish,
      onRouted: async (tx, rows: readonly OutboxRow[]) => {
        await tx.query("INSERT INTO effects (message_id) SELECT unnest($1::text[])", [
          rows.map((row) => row.message.id),
        ]);
        if (failing && rows.some((row) => row.message.id === ids[1])) throw new Error("one bad row");
      },
    });
    await database.transaction("system", async (tx) => tx.publish(...ids.map((id) => message({ id }))));
    await eventually(async () => (await kit.outboxIds()).join() === ids[1]);
    const effects = async () =>
      (await kit.admin.query<{ id: string }>("SELECT message_id AS id FROM effects ORDER BY 1")).map(
        (row) => row.id,
      );
    expect(await effects(), "the others are not held up").to.deep.equal([ids[0], ids[2]].sort());
    failing = false;
    await empty();
    expect(await effects()).to.deep.equal([...ids].sort());
  });

  it("leaves to the table what memory has no room for, and loses none of it", async () => {
    const database = await kit.open({ poolMax: 3 });
    const end = gate();
    const relay = await kit.relay(database, {
      publish: end.publish,
      pendingMax: 10,
      window: 20,
      pollBatch: 20,
    });
    const messages = Array.from({ length: 200 }, () => message());
    await Promise.all(messages.map((one) => publishOne(database, one)));
    await eventually(() => relay.state().depth === 200);
    expect(relay.state().oldestAgeMs).to.be.greaterThan(0);
    expect(database.outboxState().depth).to.equal(200);
    expect(end.waiting.length).to.be.at.most(20);
    const answered = new Set<string>();
    await eventually(async () => {
      for (const one of end.waiting.splice(0)) {
        answered.add(one.id);
        one.answer(routed);
      }
      return (await kit.outboxIds()).length === 0;
    });
    expect(answered.size).to.equal(200);
    await eventually(() => relay.state().depth === 0);
  });

  it("keeps one key's stuck messages from holding up the others", async () => {
    const database = await kit.open();
    const sent = new Set<string>();
    await kit.relay(database, {
      pendingMax: 20,
      pollBatch: 20,
      publish: (one) => {
        if (one.orderingKey === "stuck") return Promise.resolve(bad("nacked"));
        sent.add(one.id);
        return Promise.resolve(routed);
      },
    });
    const stuck = Array.from({ length: 100 }, () => message({ orderingKey: "stuck" }));
    await database.transaction("system", async (tx) => tx.publish(...stuck));
    const free = Array.from({ length: 100 }, (_, n) => message({ orderingKey: `free-${n % 7}` }));
    for (const one of free) await publishOne(database, one);
    await eventually(() => sent.size === 100);
    expect(await kit.outboxIds()).to.include.members(stuck.map((one) => one.id));
  });

  it("does not count what one destination holds up as waiting for the broker", async () => {
    const database = await kit.open();
    const relay = await kit.relay(database, {
      pollMs: 50,
      publish: (one) => Promise.resolve(one.orderingKey === "stuck" ? bad("nacked") : routed),
    });
    const stuck = Array.from({ length: 50 }, () => message({ orderingKey: "stuck" }));
    await database.transaction("system", async (tx) => tx.publish(...stuck));
    await eventually(() => relay.state().depth === 0 && relay.state().oldestAgeMs === 0, 20_000);
    expect(await kit.outboxIds()).to.have.length(50);
  });

  it("gives back on close what it could not publish, and finishes what was under way", async () => {
    const database = await kit.open();
    const end = gate();
    const relay = await kit.relay(database, { publish: end.publish, window: 1, graceMs: 60_000 });
    const [first, second] = [message(), message()];
    await database.transaction("system", async (tx) => tx.publish(first, second));
    await eventually(() => end.waiting.length === 1);
    const closed = relay.close();
    for (let n = 0; n < 2; n++) {
      await eventually(() => end.waiting.length > 0 || n === 1);
      end.waiting.splice(0).forEach((one) => one.answer(routed));
    }
    await closed;
    await relay.close();
    const other = broker();
    await kit.relay(await kit.open(), { publish: other.publish, graceMs: 60_000 });
    await empty();
    expect([[], [second.id]]).to.deep.include(other.ids());
  });

  it("resends after the database was away while it settled", async () => {
    const database = await kit.open();
    const end = broker();
    await kit.relay(database, { publish: end.publish });
    await kit.admin.run("BEGIN; LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE");
    const waiting = publishOne(database, message());
    await kit.admin.query(
      "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'things'",
    );
    await kit.admin.run("ROLLBACK");
    await waiting.catch(() => undefined);
    const one = message();
    await eventually(() => publishOne(database, one).then(() => true));
    await empty();
    expect(end.routedIds()).to.include(one.id);
  });
});
