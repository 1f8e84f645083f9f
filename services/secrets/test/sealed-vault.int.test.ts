import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { fileURLToPath } from "node:url";
import { uuidv7 } from "@muster/contracts/ids";
import { SettingsError } from "@muster/service/settings";
import { createMetrics } from "@muster/telemetry/metrics";
import { eventually } from "@muster/testing/eventually";
import { expect } from "chai";
import { describe, it } from "mocha";
import { keysOf } from "../src/keys/keys.ts";
import type { Keys } from "../src/keys/keys.ts";
import { rewrapBatch } from "../src/vaults/sealed/rewrap.ts";
import { openSealedVault } from "../src/vaults/sealed/sealed-vault.ts";
import { VaultError } from "../src/vaults/vault.ts";
import type { Place, Vault } from "../src/vaults/vault.ts";
import {
  closeAfterEachTest,
  closeAfterTest,
  everyRow,
  inSystem,
  logger,
  openSchema,
  openVaultOf,
  setupGround,
} from "./setup.ts";

closeAfterEachTest();

const soon = () => AbortSignal.timeout(10_000);
const placeOf = (version = 1): Place => ({ tenantId: "acme", secretId: uuidv7(), version });
const [old, fresh] = [randomBytes(32), randomBytes(32)];
const both = keysOf(fresh, { previous: old });

async function refusal(work: Promise<unknown>): Promise<unknown> {
  return await work.then(
    () => "none",
    (error: unknown) => error,
  );
}

async function setup(keys: Keys = keysOf(old)) {
  const ground = await setupGround();
  const open = async (which: Keys) => closeAfterTest(await openVaultOf(ground, which));
  return {
    ground,
    open,
    vault: await open(keys),
    database: closeAfterTest(await openSchema(ground, "sealed_vault")),
  };
}

async function fill(vault: Vault, count: number): Promise<Map<Place, string>> {
  const places = new Map(Array.from({ length: count }, (_, at) => [placeOf(), `value ${at}`]));
  await Promise.all([...places].map(([place, value]) => vault.write(place, { value }, soon())));
  return places;
}

const kekIds = "SELECT DISTINCT kek_id FROM sealed_versions";

describe("the sealed vault", () => {
  it("keeps a version until it is destroyed, and no write that comes late brings it back", async () => {
    const { vault } = await setup();
    const place = placeOf();
    expect(await refusal(vault.read(place, soon()))).to.include({ fault: "missing" });
    await vault.write(place, { a: "1", b: "2" }, soon());
    await vault.write(place, { b: "2", a: "1" }, soon());
    expect(await refusal(vault.write(place, { a: "2" }, soon()))).to.include({ fault: "conflict" });
    expect(await vault.read(place, soon())).to.deep.equal({ a: "1", b: "2" });
    for (let n = 0; n < 2; n++) await vault.destroy(place, soon());
    expect(await refusal(vault.read(place, soon()))).to.include({ fault: "missing" });
    expect(await refusal(vault.write(place, { a: "1" }, soon()))).to.include({ fault: "conflict" });
  });

  it("ends when the signal says so, whatever its database does", async () => {
    const { vault, database } = await setup();
    const place = placeOf();
    await database.transaction("system", async (tx) => {
      await tx.query("LOCK TABLE sealed_versions IN SHARE ROW EXCLUSIVE MODE");
      const error = await refusal(vault.write(place, { a: "1" }, AbortSignal.timeout(50)));
      expect(error).to.be.instanceOf(VaultError).and.to.include({ fault: "unavailable" });
    });
  });

  it("opens by no other key: a wrong one stops the start, by name and rule", async () => {
    const { vault, open } = await setup();
    await fill(vault, 1);
    for (const keys of [keysOf(fresh), keysOf(fresh, { previous: randomBytes(32) })]) {
      const error = await refusal(open(keys));
      expect(error).to.be.instanceOf(SettingsError);
      expect(String(error)).to.include("MUSTER_SECRETS_KEY_ENCRYPTION_KEY").and.to.include("must be the key");
      expect(String(error)).to.not.include(fresh.toString("base64"));
    }
    await (await open(keysOf(fresh, { next: old }))).check(soon());
  });

  it("says so of a row that was tampered with, and gives nothing of it", async () => {
    const { vault, database } = await setup();
    const [mine, theirs] = [placeOf(), { ...placeOf(), tenantId: "bolt" }];
    await vault.write(mine, { value: "mine" }, soon());
    await vault.write(theirs, { value: "theirs" }, soon());
    const swap = `UPDATE sealed_versions a SET sealed = b.sealed, wrapped_key = b.wrapped_key
       FROM sealed_versions b WHERE a.secret_id = $1 AND b.secret_id = $2`;
    await inSystem(database, swap, [mine.secretId, theirs.secretId]);
    expect(await refusal(vault.read(mine, soon()))).to.include({ fault: "garbled" });
  });
});

describe("the service", () => {
  it("does not start without its key or by a wrong one: it says which setting and which rule, and exits by 78", async () => {
    const { ground, vault } = await setup();
    await fill(vault, 1);
    const env = {
      PATH: process.env["PATH"] ?? "",
      MUSTER_INTERNAL_PORT: "0",
      MUSTER_AMQP_URL: "amqp://nobody:x@127.0.0.1:1",
      MUSTER_DATABASE_URL: ground.database.urlFor("secrets"),
      MUSTER_SECRETS_VAULT_DATABASE_URL: ground.database.urlFor("sealed_vault"),
    };
    const key = "MUSTER_SECRETS_KEY_ENCRYPTION_KEY";
    const wrong = fresh.toString("base64");
    const { MUSTER_SECRETS_VAULT_DATABASE_URL: _url, ...noVault } = env;
    const cases: [Record<string, string>, string, string][] = [
      [env, key, "exactly one of"],
      [{ ...env, [key]: wrong }, key, "must be the key"],
      [{ ...env, [key]: "short" }, key, "must be 32 bytes in base64"],
      [{ ...noVault, [key]: wrong }, "MUSTER_SECRETS_VAULT_DATABASE_URL", "must be set"],
    ];
    for (const [given, name, rule] of cases) {
      const { code, said } = await runMain(given);
      expect(code, said).to.equal(78);
      expect(said).to.include(name).and.to.include(rule).and.to.not.include(wrong);
    }
  });
});

/** The service's own program to its end. */
async function runMain(env: Record<string, string>): Promise<{ code: number | null; said: string }> {
  const main = fileURLToPath(new URL("../src/main.js", import.meta.url));
  const child = spawn(process.execPath, [main], { env, stdio: ["ignore", "pipe", "pipe"] });
  const said: Buffer[] = [];
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk: Buffer) => said.push(chunk));
  const code = await new Promise<number | null>((resolve) => child.once("close", resolve));
  return { code, said: Buffer.concat(said).toString() };
}

describe("the sealed vault's key", () => {
  it("is changed under reads and writes with none of them failing, until nothing has the old one", async () => {
    const { vault, open, database } = await setup();
    const places = await fill(vault, 350);
    const rotating = await open(both);
    let done = false;
    const work = async () => {
      let rounds = 0;
      while (!done || rounds === 0) {
        for (const [place, value] of [...places].slice(0, 20)) {
          expect(await rotating.read(place, soon())).to.deep.equal({ value });
          const late = { ...placeOf(), tenantId: "bolt" };
          await rotating.write(late, { value: "late" }, soon());
          expect(await rotating.read(late, soon())).to.deep.equal({ value: "late" });
          await rotating.write(place, { value }, soon());
        }
        rounds += 1;
      }
    };
    const working = Promise.all([work(), work()]);
    await eventually(async () => {
      const ids = await inSystem<{ kek_id: string }>(database, kekIds);
      return ids.length === 1 && ids[0]?.kek_id === both.current.id;
    }, 20_000);
    done = true;
    await working;
    await rotating.close();
    const alone = await open(keysOf(fresh));
    for (const [place, value] of places) expect(await alone.read(place, soon())).to.deep.equal({ value });
  });

  it("is changed to the end by whoever comes next, when a process stops in the middle", async () => {
    const { vault, open, database } = await setup();
    const places = await fill(vault, 250);
    const from = keysOf(old).current;
    await database.transaction("system", (tx) => rewrapBatch(tx, from, both.current));
    // Another dies in a batch: what it did of it is undone.
    await refusal(
      database.transaction("system", async (tx) => {
        await rewrapBatch(tx, from, both.current);
        throw new Error("died");
      }),
    );
    expect(await inSystem(database, kekIds)).to.have.length(2);
    const next = await open(both);
    for (const [place, value] of places) expect(await next.read(place, soon())).to.deep.equal({ value });
    await eventually(async () => (await inSystem(database, kekIds)).length === 1);
    const alone = await open(keysOf(fresh));
    for (const [place, value] of places) expect(await alone.read(place, soon())).to.deep.equal({ value });
  });

  it("tells how many are left", async () => {
    const { vault, ground } = await setup();
    await fill(vault, 3);
    const metrics = createMetrics({ service: "secrets" });
    const database = await openSchema(ground, "sealed_vault");
    closeAfterTest(await openSealedVault({ database, keys: both, rewrapEveryMs: 250, logger, metrics }));
    await eventually(async () => {
      const values = (await metrics.registry.getSingleMetric("muster_secrets_rewrap_left")?.get())?.values;
      return values?.[0]?.value === 0;
    });
  });
});

describe("the sealed vault's schema", () => {
  it("is read by its own role alone, and that one reads nothing of the service's", async () => {
    const { ground, vault } = await setup();
    await fill(vault, 1);
    const service = closeAfterTest(await openSchema(ground, "secrets"));
    const own = closeAfterTest(await openSchema(ground, "sealed_vault"));
    for (const scope of ["system", { tenants: ["acme"] }] as const) {
      const denied = /permission denied for schema/;
      const across = service.transaction(scope, (tx) =>
        tx.query("SELECT 1 FROM sealed_vault.sealed_versions"),
      );
      expect(String(Reflect.get((await refusal(across)) as object, "message"))).to.match(denied);
      const back = own.transaction(scope, (tx) => tx.query("SELECT 1 FROM secrets.secrets"));
      expect(String(Reflect.get((await refusal(back)) as object, "message"))).to.match(denied);
    }
    expect((await everyRow(ground.database.adminUrl, "sealed_vault")).length).to.be.greaterThan(0);
  });
});
