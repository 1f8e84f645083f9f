import { expect } from "chai";
import { checkIsolation } from "../src/catalogue.ts";
import { schema, setup, type Setup } from "./things.ts";

describe("the isolation check", () => {
  let kit: Setup;
  before(async () => (kit = await setup()));
  after(() => kit.destroy());

  const shared = ["effects", "slow_commits"];
  const check = (more: { shared?: string[]; systemOnly?: string[] } = {}) =>
    checkIsolation(kit.base.adminUrl, [{ schema, role: schema, shared, ...more }]);
  const faultsOf = async (more = {}) => (await check(more)).map((one) => `${one.table}: ${one.fault}`);

  it("finds nothing wrong with a schema that isolates every table", async () => {
    await kit.admin.run(
      "INSERT INTO things VALUES (gen_random_uuid(), 'acme', 'x'); INSERT INTO outbox (message_id, type, exchange, routing_key, tenant_id, body) VALUES ('m', 't', '', 'q', 'acme', '{}')",
    );
    expect(await faultsOf()).to.deep.equal([]);
  });

  const holes: Record<string, { open: string; shut: string; says: RegExp }> = {
    "a table without a tenant that nobody declared": {
      open: "CREATE TABLE loose (n int)",
      shut: "DROP TABLE loose",
      says: /things\.loose: has no tenant_id/,
    },
    "a tenant's table without policies": {
      open: "CREATE TABLE bare (tenant_id text); INSERT INTO bare VALUES ('acme')",
      shut: "DROP TABLE bare",
      says: /things\.bare: shows rows to tenant ""/,
    },
    "row-level security that does not bind the owner": {
      open: "ALTER TABLE things NO FORCE ROW LEVEL SECURITY",
      shut: "ALTER TABLE things FORCE ROW LEVEL SECURITY",
      says: /things\.things: row-level security does not bind the owner/,
    },
    "a second policy that lets the service past the tenant": {
      open: "CREATE POLICY door ON things TO things USING (true)",
      shut: "DROP POLICY door ON things",
      says: /policy door lets things past/,
    },
    "a policy for everyone": {
      open: "CREATE POLICY door ON things USING (label = 'public')",
      shut: "DROP POLICY door ON things",
      says: /policy door lets public past/,
    },
    "a policy that is about tenants, and lets everybody in besides": {
      open: "ALTER POLICY tenant_isolation ON things USING (tenant_id = ANY ((SELECT muster_tenants())::text[]) OR label IS NULL)",
      shut: "ALTER POLICY tenant_isolation ON things USING (tenant_id = ANY ((SELECT muster_tenants())::text[]))",
      says: /past the tenant[^]*things\.things: shows rows to tenant unset[^]*deletes rows to tenant "no-such-tenant"/,
    },
    "tenants that are read from what names none": {
      open: "CREATE OR REPLACE FUNCTION muster_tenants() RETURNS text[] LANGUAGE sql STABLE AS $$ SELECT string_to_array(trim(lower(current_setting('muster.tenants', true))), ',') $$",
      shut: "CREATE OR REPLACE FUNCTION muster_tenants() RETURNS text[] LANGUAGE sql STABLE PARALLEL SAFE AS $$ SELECT coalesce(string_to_array(nullif(current_setting('muster.tenants', true), ''), ','), '{}'::text[]) $$",
      says: /shows rows to tenant "MUSTER-VICTIM"[^]*adds rows to tenant "MUSTER-VICTIM"/,
    },
    "a right to empty a table, which no policy bounds": {
      open: "GRANT TRUNCATE ON things TO things",
      shut: "REVOKE TRUNCATE ON things FROM things",
      says: /things\.things: gives TRUNCATE to things[^]*empties rows to tenant/,
    },
    "a table that everybody may read": {
      open: "GRANT USAGE ON SCHEMA things TO PUBLIC; GRANT SELECT ON inbox TO PUBLIC",
      shut: "REVOKE USAGE ON SCHEMA things FROM PUBLIC; REVOKE SELECT ON inbox FROM PUBLIC",
      says: /things\.inbox: gives SELECT to public[^]*gives USAGE to public/,
    },
    "one column that everybody may read": {
      open: "GRANT SELECT (label) ON things TO PUBLIC",
      shut: "REVOKE SELECT (label) ON things FROM PUBLIC",
      says: /things\.things: gives SELECT to public/,
    },
    "a sequence that may be set": {
      open: "GRANT UPDATE ON SEQUENCE outbox_id_seq TO things",
      shut: "REVOKE UPDATE ON SEQUENCE outbox_id_seq FROM things",
      says: /outbox_id_seq: gives UPDATE to things/,
    },
    "a schema in which its own service may make things": {
      open: "GRANT CREATE ON SCHEMA things TO things",
      shut: "REVOKE CREATE ON SCHEMA things FROM things",
      says: /gives CREATE to things/,
    },
    "a function that runs with its owner's rights": {
      open: "CREATE FUNCTION all_things() RETURNS SETOF things LANGUAGE sql SECURITY DEFINER AS 'SELECT * FROM things'",
      shut: "DROP FUNCTION all_things()",
      says: /all_things\(\): runs with its owner's rights/,
    },
    "tables of tomorrow that everybody may read": {
      open: "ALTER DEFAULT PRIVILEGES IN SCHEMA things GRANT SELECT ON TABLES TO PUBLIC",
      shut: "ALTER DEFAULT PRIVILEGES IN SCHEMA things REVOKE SELECT ON TABLES FROM PUBLIC",
      says: /made_tomorrow: by default gives SELECT to public/,
    },
    "another service's role, in by membership and by grant": {
      open: "CREATE ROLE things_neighbour LOGIN; GRANT things_system TO things_neighbour; GRANT DELETE ON things TO things_neighbour",
      shut: "DROP OWNED BY things_neighbour; DROP ROLE things_neighbour",
      says: /gives DELETE to things_neighbour[^]*role things_neighbour: can act as things_system[^]*does not refuse things_neighbour/,
    },
    "a view, which would read with its owner's rights": {
      open: "CREATE VIEW window_on_things AS SELECT * FROM things",
      shut: "DROP VIEW window_on_things",
      says: /window_on_things/,
    },
  };
  for (const [hole, { open, shut, says }] of Object.entries(holes)) {
    it(`finds ${hole}`, async () => {
      await kit.admin.run(open);
      try {
        expect((await faultsOf()).join("\n")).to.match(says);
      } finally {
        await kit.admin.run(shut);
      }
      expect(await faultsOf()).to.deep.equal([]);
    });
  }

  it("finds a login role that does not exist", async () => {
    const faults = await checkIsolation(kit.base.adminUrl, [{ schema: "public", role: "no_such_role" }]);
    expect(faults.map((one) => one.fault)).to.include("does not exist");
  });
});
