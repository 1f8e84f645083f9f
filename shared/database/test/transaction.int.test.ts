import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import { eventually } from "@muster/testing/eventually";
import { expect } from "chai";
import { DataTypes } from "sequelize";
import type { Database, Tx } from "../src/database.ts";
import { CommitUnknownError, violatedConstraint } from "../src/faults.ts";
import { message, setup, type Setup } from "./things.ts";

const caught = (promise: Promise<unknown>): Promise<unknown> => promise.then(() => undefined, (error: unknown) => error); // prettier-ignore

const pidOf = async (tx: Tx): Promise<number> =>
  (await tx.query<{ pid: number }>("SELECT pg_backend_pid() AS pid"))[0]?.pid ?? 0;

/** One message of the server's protocol. */
function wire(kind: string, body: Buffer): Buffer {
  const head = Buffer.alloc(5);
  head.write(kind);
  head.writeInt32BE(4 + body.length, 1);
  return Buffer.concat([head, body]);
}

const insert = "INSERT INTO things (id, tenant_id, label) VALUES ($1, 'acme', $2)";

describe("a transaction", () => {
  let kit: Setup;
  before(async () => (kit = await setup()));
  after(() => kit.destroy());

  async function labelled(label: string): Promise<number> {
    const rows = await kit.admin.query<{ n: string }>("SELECT count(*) AS n FROM things WHERE label = $1", [
      label,
    ]);
    return Number(rows[0]?.n);
  }

  const defineThing = (database: Database) =>
    database.sequelize.define("things", {
      id: { type: DataTypes.UUID, primaryKey: true },
      tenant_id: DataTypes.TEXT,
      label: DataTypes.TEXT,
      amount: DataTypes.BIGINT,
    });

  for (const count of [1, 3, 4, 50]) {
    it(`keeps or loses model, SQL and ${count} outbox rows together`, async () => {
      const database = await kit.open();
      const things = defineThing(database);
      const messages = Array.from({ length: count }, () => message({ orderingKey: "one" }));
      const label = uuidv7();
      const work = async (tx: Tx, fail: boolean) => {
        await things.create({ id: uuidv7(), tenant_id: "acme", label }, { transaction: tx.sequelize });
        await tx.query(insert, [uuidv7(), label]);
        tx.publish(...messages);
        expect(await things.count({ where: { label }, transaction: tx.sequelize })).to.equal(2);
        if (fail) throw new Error("changed my mind");
      };
      const error = await caught(database.transaction({ tenants: ["acme"] }, (tx) => work(tx, true)));
      expect(error).to.have.property("message", "changed my mind");
      expect(await labelled(label)).to.equal(0);
      expect(await kit.outboxIds()).to.deep.equal([]);
      await database.transaction({ tenants: ["acme"] }, (tx) => work(tx, false));
      expect(await labelled(label)).to.equal(2);
      expect(await kit.outboxIds()).to.deep.equal(messages.map((one) => one.id));
      const [row] = await kit.admin.query<{ body: string; headers: unknown }>("SELECT body, headers FROM outbox LIMIT 1"); // prettier-ignore
      expect(row?.body).to.equal(messages[0]?.body);
      expect(row?.headers).to.deep.equal(messages[0]?.headers);
      await kit.admin.run("DELETE FROM outbox");
    });
  }

  it("loses its writes when an outbox row is refused", async () => {
    const database = await kit.open();
    const label = uuidv7();
    const twice = message();
    for (const extra of [0, 10]) {
      const error = await caught(
        database.transaction({ tenants: ["acme"] }, async (tx) => {
          await tx.query(insert, [uuidv7(), label]);
          tx.publish(twice, twice, ...Array.from({ length: extra }, () => message()));
        }),
      );
      expect(violatedConstraint(error)).to.equal("outbox_message_id_key");
    }
    expect(await labelled(label)).to.equal(0);
  });

  it("says so when connections end in the moment in which they are made, and outlives them", async () => {
    const target = new URL(kit.base.urlFor("things"));
    const sockets = new Set<Socket>();
    const keep = (socket: Socket): Socket => socket.on("error", () => socket.destroy());
    let doomed = 2;
    // What PostgreSQL says to a client that reads it late: the welcome, and that it goes, in one piece.
    const ended = Buffer.concat([
      wire("R", Buffer.alloc(4)),
      wire("Z", Buffer.from("I")),
      wire("E", Buffer.from("SFATAL\0C57P01\0Mterminating connection due to unexpected postmaster exit\0\0")),
    ]);
    const server = createServer((near) => {
      sockets.add(keep(near));
      if (doomed-- > 0) {
        near.once("data", () => near.end(ended));
        return;
      }
      const far = keep(connect(Number(target.port), target.hostname));
      sockets.add(far);
      near.pipe(far).pipe(near);
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const url = new URL(target);
    url.port = String((server.address() as AddressInfo).port);
    for (const left of [1, 0]) {
      const error = await caught(kit.open({ url: url.href }));
      expect(error).to.include({ code: "DEPENDENCY_UNAVAILABLE" });
      expect(doomed).to.equal(left);
    }
    const database = await kit.open({ url: url.href });
    expect(await database.transaction({ tenants: ["acme"] }, (tx) => pidOf(tx))).to.be.greaterThan(0);
    await database.close();
    for (const socket of sockets) socket.destroy();
    server.close();
  });

  it("does not pass off a commit that became a rollback as done", async () => {
    const database = await kit.open();
    const label = uuidv7();
    for (const publish of [false, true]) {
      const error = await caught(
        database.transaction({ tenants: ["acme"] }, async (tx) => {
          await tx.query(insert, [uuidv7(), label]);
          await caught(tx.query("SELECT 1 / 0"));
          if (publish) tx.publish(message());
        }),
      );
      expect(error).to.be.instanceOf(Error);
      expect(await labelled(label)).to.equal(0);
    }
  });

  it("answers a killed connection with DEPENDENCY_UNAVAILABLE, keeps nothing, and the pool recovers", async () => {
    const database = await kit.open({ poolMax: 1 });
    const label = uuidv7();
    const error = await caught(
      database.transaction({ tenants: ["acme"] }, async (tx) => {
        await tx.query(insert, [uuidv7(), label]);
        await kit.admin.query("SELECT pg_terminate_backend($1)", [await pidOf(tx)]);
        await tx.query(insert, [uuidv7(), label]);
      }),
    );
    expect(error).to.be.instanceOf(MusterError).and.not.instanceOf(CommitUnknownError);
    expect(error).to.include({ code: "DEPENDENCY_UNAVAILABLE" }).and.have.property("cause");
    expect(database.health().ok).to.equal(false);
    await database.transaction({ tenants: ["acme"] }, (tx) => tx.query(insert, [uuidv7(), label]));
    expect(await labelled(label)).to.equal(1);
    expect(database.health().ok).to.equal(true);
  });

  it("gets over connections that died while they lay idle", async () => {
    const database = await kit.open({ poolMax: 3 });
    await Promise.all(
      [1, 2, 3].map(() => database.transaction("system", (tx) => tx.query("SELECT pg_sleep(0.02)"))),
    );
    await kit.admin.query(
      "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'things'",
    );
    await Promise.all([1, 2, 3, 4].map(() => database.transaction("system", (tx) => tx.query("SELECT 1"))));
  });

  for (const publish of [0, 1, 10]) {
    it(`says that the outcome is unknown when cut off during the commit of ${publish} messages, and does not run again`, async () => {
      const database = await kit.open();
      let runs = 0;
      let pid = 0;
      const cut = caught(
        database.transaction("system", async (tx) => {
          runs++;
          pid = await pidOf(tx);
          await tx.query("INSERT INTO slow_commits VALUES (30)");
          for (let i = 0; i < publish; i++) tx.publish(message());
        }),
      );
      await eventually(async () => {
        const rows = await kit.admin.query(
          "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep'",
          [pid],
        );
        return rows.length === 1;
      });
      const error = await cut;
      expect(error).to.be.instanceOf(CommitUnknownError);
      expect(error).to.have.property("code", "DEADLINE_EXCEEDED");
      expect(runs).to.equal(1);
    });
  }

  it("counts a statement that runs into its limit as the database's failure, and keeps the connection", async () => {
    const database = await kit.open({ statementTimeoutMs: 100, poolMax: 1 });
    const before = await database.transaction("system", pidOf);
    const error = await caught(database.transaction("system", (tx) => tx.query("SELECT pg_sleep(5)")));
    expect(error).to.include({ code: "DEPENDENCY_UNAVAILABLE" });
    expect(await database.transaction("system", pidOf)).to.equal(before);
  });

  it("runs both of two deadlocked transactions to their end", async () => {
    const database = await kit.open();
    const ids = [uuidv7(), uuidv7()];
    await database.transaction("system", async (tx) => {
      for (const id of ids) await tx.query(insert, [id, "deadlock"]);
    });
    let runs = 0;
    const touch = (order: readonly string[]) =>
      database.transaction("system", async (tx) => {
        runs++;
        for (const id of order) {
          await tx.query("UPDATE things SET amount = amount + 1 WHERE id = $1", [id]);
          await tx.query("SELECT pg_sleep(0.1)");
        }
      });
    await Promise.all([touch(ids), touch([...ids].reverse())]);
    expect(runs).to.be.greaterThan(2);
    const rows = await kit.admin.query<{ amount: string }>(
      "SELECT amount FROM things WHERE label = 'deadlock'",
    );
    expect(rows.map((row) => Number(row.amount))).to.deep.equal([2, 2]);
  });

  it("gives up on a collision that never ends, after a bounded number of runs", async () => {
    const database = await kit.open();
    let runs = 0;
    const error = await caught(
      database.transaction("system", async (tx) => {
        runs++;
        await tx.query("DO $$ BEGIN RAISE EXCEPTION 'again' USING ERRCODE = '40001'; END $$");
      }),
    );
    expect(error).to.include({ code: "DEPENDENCY_UNAVAILABLE" });
    expect(runs).to.equal(5);
  });

  it("answers BACKPRESSURE when no connection comes free in time, and when too many wait", async () => {
    const database = await kit.open({ poolMax: 1, acquireTimeoutMs: 100, waitingMax: 2 });
    const sleepers = [1, 2, 3, 4].map(() =>
      caught(database.transaction("system", (tx) => tx.query("SELECT pg_sleep(0.5)"))),
    );
    const codes = (await Promise.all(sleepers)).map((error) =>
      error instanceof MusterError ? error.code : "ok",
    );
    expect(codes).to.deep.equal(["ok", "BACKPRESSURE", "BACKPRESSURE", "BACKPRESSURE"]);
  });

  it("takes several statements at once, in their order, and none after its end", async () => {
    const database = await kit.open();
    let kept: Tx | undefined;
    const rows = await database.transaction("system", (tx) => {
      kept = tx;
      return Promise.all([1, 2, 3].map((n) => tx.query<{ n: number }>("SELECT $1::int8 AS n", [n])));
    });
    expect(rows.flat().map((row) => row.n)).to.deep.equal([1, 2, 3]);
    expect(await caught(kept?.query("SELECT 1") ?? Promise.resolve())).to.be.instanceOf(Error);
    expect(() => kept?.publish(message())).to.throw("has ended");
  });

  it("reads bigints as exact numbers, and refuses one that no number holds", async () => {
    const database = await kit.open();
    await database.transaction("system", async (tx) => {
      const rows = await tx.query(
        "SELECT 9007199254740991 AS big, ARRAY[1, 2]::int8[] AS list, 1.10::numeric AS money",
      );
      expect(rows).to.deep.equal([{ big: Number.MAX_SAFE_INTEGER, list: [1, 2], money: "1.10" }]);
    });
    const error = await caught(
      database.transaction("system", (tx) => tx.query("SELECT 9007199254740992 AS big")),
    );
    expect(error).to.be.instanceOf(RangeError);
    await database.transaction("system", (tx) => tx.query("SELECT 1"));
  });

  it("is refused once its database closes, which waits for those that run", async () => {
    const database = await kit.open();
    const label = uuidv7();
    const running = database.transaction({ tenants: ["acme"] }, async (tx) => {
      await tx.query("SELECT pg_sleep(0.2)");
      await tx.query(insert, [uuidv7(), label]);
    });
    const closed = database.close();
    expect(await caught(database.transaction("system", (tx) => tx.query("SELECT 1")))).to.include({
      code: "DRAINING",
    });
    await closed;
    await running;
    await database.close();
    expect(await labelled(label)).to.equal(1);
  });

  it("cannot start without its database, and says so", async () => {
    const error = await caught(kit.open({ url: "postgres://things:x@127.0.0.1:1/none" }));
    expect(error).to.include({ code: "DEPENDENCY_UNAVAILABLE" }).and.have.property("cause");
  });
});

describe("a prepared batch statement", () => {
  let kit: Setup;
  before(async () => (kit = await setup()));
  after(() => kit.destroy());

  it("goes by the index although it was first planned when its table was tiny", async () => {
    await kit.admin.run(
      `CREATE TABLE growing (id bigint PRIMARY KEY, n int, pad text) WITH (autovacuum_enabled = off);
       INSERT INTO growing VALUES (1, 1, ''); ANALYZE growing`,
    );
    const database = await kit.open({ poolMax: 1 });
    const texts = {
      by_unnest: "UPDATE growing g SET n = g.n + 1 FROM unnest($1::bigint[]) AS u(id) WHERE g.id = u.id",
      by_any: "UPDATE growing SET n = n + 1 WHERE id = ANY ($1::bigint[])",
    };
    // pg_stat_xact_… counts within the current transaction.
    const counted = `SELECT seq_tup_read + idx_tup_fetch AS rows FROM pg_stat_xact_user_tables
      WHERE relid = 'growing'::regclass`;
    const touch = (name: string, text: string) =>
      database.transaction("system", async (tx) => {
        await tx.query(text, [[1, 2, 3]], { name });
        const [row] = await tx.query<{ rows: number }>(counted);
        return row?.rows ?? Infinity;
      });
    for (let n = 0; n < 8; n++) for (const [name, text] of Object.entries(texts)) await touch(name, text);
    await kit.admin.run("INSERT INTO growing SELECT g, 1, repeat('y', 100) FROM generate_series(2, 20000) g");
    for (const [name, text] of Object.entries(texts))
      expect(await touch(name, text), name).to.be.lessThan(100);
  });
});
