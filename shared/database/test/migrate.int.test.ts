import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import { expect } from "chai";
import { runMigrateCli } from "../src/migrate-cli.ts";
import { migrate, MigrationFault } from "../src/migrate.ts";
import { setup, logger, type Setup } from "./things.ts";

const caught = (promise: Promise<unknown>): Promise<unknown> => promise.then(() => undefined, (error: unknown) => error); // prettier-ignore

describe("migrate", () => {
  let kit: Setup;
  let directory: string;
  before(async () => {
    kit = await setup();
    directory = await mkdtemp(join(tmpdir(), "muster-migrations-"));
  });
  after(async () => {
    // Roles outlive the database they were made for.
    await kit.admin.run("DROP OWNED BY gizmos, gizmos_system; DROP ROLE gizmos, gizmos_system");
    await kit.destroy();
    await rm(directory, { recursive: true });
  });

  const write = (name: string, text: string) => writeFile(join(directory, name), text);
  const run = (password = "first") =>
    migrate({ adminUrl: kit.base.adminUrl, schema: "gizmos", role: "gizmos", password, directory, logger });

  it("applies each file once when twenty run at once", async () => {
    await write(
      "0001_gizmos.sql",
      "CREATE TABLE gizmos (tenant_id text NOT NULL, n int); CALL isolate_tenants('gizmos')",
    );
    await write(
      "0002_first_gizmo.sql",
      "SET LOCAL ROLE gizmos_system; INSERT INTO gizmos VALUES ('acme', 1)",
    );
    const all = await Promise.all(Array.from({ length: 20 }, () => run()));
    const applied = all.map((one) => one.applied).filter((names) => names.length > 0);
    expect(applied).to.deep.equal([
      ["common/0001_outbox_inbox.sql", "0001_gizmos.sql", "0002_first_gizmo.sql"],
    ]);
    expect(await kit.admin.query("SELECT n FROM gizmos.gizmos")).to.deep.equal([{ n: 1 }]);
  });

  it("changes nothing when there is nothing new", async () => {
    expect(await run()).to.deep.equal({ applied: [] });
  });

  it("lets the service in under its own role and latest password, and into its own schema only", async () => {
    await run("second");
    const url = new URL(kit.base.adminUrl);
    url.username = "gizmos";
    url.password = "first";
    expect(await caught(kit.open({ url: url.href, schema: "gizmos" }))).to.include({
      code: "DEPENDENCY_UNAVAILABLE",
    });
    url.password = "second";
    const database = await kit.open({ url: url.href, schema: "gizmos" });
    const rows = await database.transaction({ tenants: ["acme"] }, (tx) => tx.query("SELECT n FROM gizmos"));
    expect(rows).to.deep.equal([{ n: 1 }]);
    for (const text of [
      "SELECT * FROM things.things",
      "CREATE TABLE mine (n int)",
      "SET ROLE things_system",
      "DROP TABLE gizmos",
    ]) {
      const error = await caught(database.transaction({ tenants: ["acme"] }, (tx) => tx.query(text)));
      expect(error, text).to.have.property("code", "42501");
    }
  });

  it("refuses a file that was changed after it was applied, and one that comes too late", async () => {
    await write("0002_first_gizmo.sql", "SELECT 1");
    const changed = await caught(run());
    expect(changed).to.be.instanceOf(MigrationFault);
    expect(changed)
      .to.have.property("message")
      .that.matches(/0002_first_gizmo\.sql was changed/);
    await write(
      "0002_first_gizmo.sql",
      "SET LOCAL ROLE gizmos_system; INSERT INTO gizmos VALUES ('acme', 1)",
    );
    await write("0000_forgotten.sql", "SELECT 1");
    expect(await caught(run()))
      .to.have.property("message")
      .that.matches(/0000_forgotten\.sql comes before/);
    await rm(join(directory, "0000_forgotten.sql"));
    await write("0003-Bad.sql", "SELECT 1");
    expect(await caught(run()))
      .to.have.property("message")
      .that.matches(/name it like/);
    await rm(join(directory, "0003-Bad.sql"));
  });

  it("leaves nothing of a file that fails half-way, and keeps those before it", async () => {
    await write("0003_colours.sql", "CREATE TABLE colours (n int)");
    await write("0004_broken.sql", "CREATE TABLE half (n int); SELECT 1 / 0");
    const error = await caught(run());
    expect(error)
      .to.have.property("message")
      .that.matches(/0004_broken/);
    const tables = await kit.admin.query<{ name: string }>(
      "SELECT relname AS name FROM pg_class WHERE relnamespace = 'gizmos'::regnamespace AND relname IN ('colours', 'half')",
    );
    expect(tables).to.deep.equal([{ name: "colours" }]);
    await write("0004_broken.sql", "CREATE TABLE half (n int)");
    expect(await run()).to.deep.equal({ applied: ["0004_broken.sql"] });
  });

  it("keeps passwords out of the server's statements: it sends what the server would store", async () => {
    const rows = await kit.admin.query<{ rolpassword: string }>("SELECT rolpassword FROM pg_authid WHERE rolname = 'gizmos'"); // prettier-ignore
    expect(rows[0]?.rolpassword).to.match(/^SCRAM-SHA-256\$4096:/);
  });

  it("answers 78 to settings that cannot work and 64 to arguments it does not know", async () => {
    const err = new PassThrough();
    const cli = (env: Record<string, string>, argv: string[] = []) =>
      runMigrateCli({ service: "gizmos", schema: "gizmos", directory, env, argv, err });
    const MUSTER_ADMIN_DATABASE_URL = kit.base.adminUrl;
    expect(await cli({})).to.equal(78);
    expect(
      await cli({ MUSTER_ADMIN_DATABASE_URL, MUSTER_DATABASE_URL: "postgres://gizmos:x@elsewhere/db" }),
    ).to.equal(78);
    expect(await cli({}, ["--down"])).to.equal(64);
  });
});
