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
