import { randomBytes } from "node:crypto";
import type { Database } from "@muster/database/database";
import { setupDatabase } from "@muster/testing/database";
import { expect } from "chai";
import { keepKeys } from "../src/signing/keep.ts";
import type { Keeping } from "../src/signing/keep.ts";
import { skewSeconds } from "../src/signing/life.ts";
import { sealerOf } from "../src/signing/sealed.ts";
import { findKeys, findPublished } from "../src/signing/store.ts";
import { codeOf, keyEncryptionKey, life, migrations, open, openReplica, passTime } from "./setup.ts";

const daySeconds = 86_400;

async function prepare() {
  const postgres = await setupDatabase({ migrations });
  const databases = await Promise.all([1, 2].map(() => open(postgres.urlFor("auth"))));
  const [database, other] = databases as [Database, Database];
  const sealer = sealerOf(keyEncryptionKey);
  const keeping: Keeping = { kind: "access", database, sealer, tokenTtlSeconds: 600, life };
  const system = <R>(text: string) => database.transaction("system", (tx) => tx.query<R>(text));
  return {
    ...{ database, other, keeping, system },
    published: async () => {
      const { keys } = await database.transaction("system", (tx) => findPublished(tx, "access"));
      return keys.map(({ kid }) => kid);
    },
    /** Kids by status. */
    async keys() {
      const { keys } = await database.transaction("system", (tx) => findKeys(tx, "access"));
      const of = (status: string) => keys.filter((key) => key.status === status).map(({ kid }) => kid);
      return { active: of("active"), next: of("next"), retired: of("retired"), rows: keys };
    },
    audited: (action: string) => system(`SELECT 1 FROM audit_events WHERE action = 'signing-key.${action}'`),
    async close() {
      await Promise.all(databases.map((one) => one.close()));
      await postgres.destroy();
    },
  };
}
type Bundle = Awaited<ReturnType<typeof prepare>>;

describe("signing keys", function () {
  this.timeout(60_000);
  let s: Bundle;
  beforeEach(async () => (s = await prepare()));
  afterEach(() => s.close());

  it("are one that signs and one that is next for many replicas that start at once", async () => {
    const replicas = await Promise.all(Array.from({ length: 10 }, () => openReplica(s.database)));
    const { active, next } = await s.keys();
    expect([active.length, next.length]).to.deep.equal([1, 1]);
    const kids = await Promise.all(replicas.map(async (one) => (await one.keyOf(active[0] ?? "")).kid));
    expect(new Set(kids)).to.deep.equal(new Set(active));
    await Promise.all(replicas.map((one) => one.close()));
    const wrong = await codeOf(openReplica(s.database, { sealingKey: randomBytes(32) }));
    expect(wrong).to.include("MUSTER_AUTH_KEY_ENCRYPTION_KEY is not the key that sealed");
  });

  it("change the key that seals them one replica after another, with every replica signing all the while", async () => {
    const [before, after] = [keyEncryptionKey, randomBytes(32)];
    const sealedWith = async () =>
      (await s.system<{ id: string }>("SELECT DISTINCT sealed_with AS id FROM signing_keys")).map(
        ({ id }) => id,
      );
    const replicas = [await openReplica(s.database)];
    const { active } = await s.keys();
    const allSign = async () => {
      const kids = await Promise.all(replicas.map(async (one) => (await one.keyOf(active[0] ?? "")).kid));
      expect(new Set(kids)).to.deep.equal(new Set(active));
    };
    const next = { sealingKey: after, otherSealingKey: before };
    // Each may open what the others seal before anybody seals with the new one.
    replicas.push(await openReplica(s.database, { sealingKey: before, otherSealingKey: after }));
    expect(await sealedWith()).to.deep.equal([sealerOf(before).id]);
    const many = await Promise.all(Array.from({ length: 4 }, () => openReplica(s.database, next)));
    replicas.push(...many);
    expect(await sealedWith()).to.deep.equal([sealerOf(after).id]);
    // One that is started anew in the middle, as it was before.
    replicas.push(await openReplica(s.database, { sealingKey: before, otherSealingKey: after }));
    await allSign();
    replicas.push(await openReplica(s.database, next), await openReplica(s.database, { sealingKey: after }));
    await allSign();
    await passTime(s.database, 31 * daySeconds);
    expect((await keepKeys({ ...s.keeping, sealer: sealerOf(after) })).map(({ kind }) => kind)).to.include(
      "rotate",
    );
    expect(await sealedWith()).to.deep.equal([sealerOf(after).id]);
    expect((await s.audited("sealed-anew")).length).to.equal(2 * 3);
    expect(await codeOf(openReplica(s.database))).to.include("is not the key that sealed");
    await Promise.all(replicas.map((one) => one.close()));
  });

  it("stay sealed as they are where what sealed them is given to nobody", async () => {
    await (await openReplica(s.database)).close();
    const strangers = { sealingKey: randomBytes(32), otherSealingKey: randomBytes(32) };
    expect(await codeOf(openReplica(s.database, strangers))).to.include("KEY_OTHER too");
    expect(await s.audited("sealed-anew")).to.deep.equal([]);
  });

  it("rotate once on schedule, however many replicas look; the key before is published on", async () => {
    await keepKeys(s.keeping);
    const before = await s.keys();
    await passTime(s.database, 30 * daySeconds - 60);
    expect(await keepKeys(s.keeping)).to.deep.equal([]);
    await passTime(s.database, 60);
    const others = { ...s.keeping, database: s.other };
    const looks = Array.from({ length: 10 }, (_, n) => keepKeys(n % 2 === 0 ? s.keeping : others));
    const steps = (await Promise.all(looks)).flat().map(({ kind }) => kind);
    expect(steps.sort()).to.deep.equal(["make", "rotate"]);
    const { active, next, retired } = await s.keys();
    expect([active, retired]).to.deep.equal([before.next, before.active]);
    expect(await s.published()).to.have.members([...active, ...next, ...retired]);
    expect([await s.audited("retired"), await s.audited("created")].map((rows) => rows.length)).to.deep.equal(
      [1, 3],
    );
  });

  it("are signed with by every replica from the rotation on, whoever made it", async () => {
    const [first, second] = await Promise.all([openReplica(s.database), openReplica(s.other)]);
    const signer = async (replica: typeof first, database: Database) =>
      (await replica.keyOf(await database.transaction("system", replica.activeKid))).kid;
    const kids = async () => [await signer(first, s.database), await signer(second, s.other)];
    const before = await s.keys();
    expect(await kids()).to.deep.equal([before.active[0], before.active[0]]);
    await passTime(s.database, 30 * daySeconds);
    await keepKeys(s.keeping);
    expect(await kids()).to.deep.equal([before.next[0], before.next[0]]);
    await Promise.all([first.close(), second.close()]);
  });

  it("verify until the longest-lived token that any replica signed has expired, and are then removed", async () => {
    await keepKeys(s.keeping);
    const long = await openReplica(s.other, { tokenTtlSeconds: 1_800 });
    await long.close();
    await passTime(s.database, 30 * daySeconds);
    await keepKeys(s.keeping);
    const { retired, rows } = await s.keys();
    const row = rows.find(({ kid }) => kid === retired[0]);
    const verifiesForMs = (row?.verify_until?.getTime() ?? 0) - (row?.retired_at?.getTime() ?? 0);
    expect(Math.round(verifiesForMs / 1_000)).to.equal(1_800 + skewSeconds);
    await passTime(s.database, 1_800 + skewSeconds - 20);
    expect(await keepKeys(s.keeping)).to.deep.equal([]);
    expect(await s.published()).to.include(retired[0]);
    await passTime(s.database, 20);
    expect(await s.published()).to.not.include(retired[0]);
    expect(await keepKeys(s.keeping)).to.deep.equal([{ kind: "remove", kids: retired }]);
    expect((await s.keys()).retired).to.deep.equal([]);
    expect(await s.audited("removed")).to.have.length(1);
  });

  for (const when of ["before its commit", "after its commit"] as const) {
    it(`go on from wherever a process died, ${when}`, async () => {
      for (let at = 1, died = true; died; at++) {
        await s.system("DELETE FROM signing_keys");
        const crash = { ...s.keeping, database: crashing(s.database, at, when) };
        died = await diesIn(async () => {
          await keepKeys(crash);
          await passTime(s.database, 31 * daySeconds);
          await keepKeys(crash);
          await passTime(s.database, daySeconds);
          await keepKeys(crash);
        });
        const left = await s.keys();
        // Nothing was made yet, or one key signs and is published.
        expect(left.active, `at ${at}`).to.have.length(Math.min(1, left.rows.length));
        expect(await s.published(), `at ${at}`).to.include.members(left.active);
        await keepKeys(s.keeping);
        const after = await s.keys();
        expect([after.active.length, after.next.length], `at ${at}`).to.deep.equal([1, 1]);
        if (!died) expect(at, "every step was died at").to.be.greaterThan(5);
      }
    });
  }

  it("go on signing with the key before where the next one cannot be opened", async () => {
    await keepKeys(s.keeping);
    const before = await s.keys();
    await s.system(
      "UPDATE signing_keys SET private_sealed = private_sealed || '\\x00' WHERE status = 'next'",
    );
    await passTime(s.database, 30 * daySeconds);
    expect(await codeOf(keepKeys(s.keeping))).to.include("was damaged in the database");
    expect((await s.keys()).active).to.deep.equal(before.active);
  });
});

class Crash extends Error {}

async function diesIn(work: () => Promise<void>): Promise<boolean> {
  try {
    await work();
    return false;
  } catch (error) {
    if (error instanceof Crash) return true;
    throw error;
  }
}

/** Dies at the transaction of this number that writes: before its commit nothing of it is left, after it all is. */
function crashing(
  database: Database,
  at: number,
  when: "before its commit" | "after its commit",
): Pick<Database, "transaction"> {
  let count = 0;
  return {
    async transaction(scope, work, options) {
      if (options?.readOnly === true) return await database.transaction(scope, work, options);
      count += 1;
      const dies = count === at;
      const answer = await database.transaction(
        scope,
        async (tx) => {
          const value = await work(tx);
          if (dies && when === "before its commit") throw new Crash();
          return value;
        },
        options,
      );
      if (dies) throw new Crash();
      return answer;
    },
  };
}
