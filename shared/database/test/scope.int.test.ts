import { uuidv7 } from "@muster/contracts/ids";
import { expect } from "chai";
import { sqlState } from "../src/faults.ts";
import { message, setup, type Setup } from "./things.ts";

describe("a transaction's scope", () => {
  let kit: Setup;
  before(async () => (kit = await setup()));
  after(() => kit.destroy());

  const insert = "INSERT INTO things (id, tenant_id, label) VALUES ($1, $2, 'x')";
  const count = "SELECT count(*) AS n FROM things WHERE tenant_id LIKE $1";

  it("sees the rows of its tenants and of no others", async () => {
    const database = await kit.open();
    await database.transaction("system", async (tx) => {
      for (const tenant of ["scope-a", "scope-b", "scope-c"]) await tx.query(insert, [uuidv7(), tenant]);
    });
    const seen = (tenants: string[]) =>
      database.transaction({ tenants }, async (tx) => {
        const [row] = await tx.query<{ n: number }>(count, ["scope-%"]);
        return row?.n;
      });
    expect(await seen(["scope-a"])).to.equal(1);
    expect(await seen(["scope-a", "scope-c"])).to.equal(2);
    expect(await seen(["elsewhere"]), "a wrong tenant").to.equal(0);
    expect(await seen([]), "no tenant").to.equal(0);
  });

  it("refuses to write a row of another tenant, or to move one there", async () => {
    const database = await kit.open();
    const refused = async (work: (tenant: string) => Promise<unknown>) => {
      const error = await work("write-b").catch((thrown: unknown) => thrown);
      expect(sqlState(error)).to.equal("42501");
    };
    await refused((tenant) =>
      database.transaction({ tenants: ["write-a"] }, (tx) => tx.query(insert, [uuidv7(), tenant])),
    );
    await refused((tenant) =>
      database.transaction({ tenants: ["write-a"] }, async (tx) => {
        await tx.query(insert, [uuidv7(), "write-a"]);
        await tx.query("UPDATE things SET tenant_id = $1", [tenant]);
      }),
    );
  });

  it("ends with its transaction: the next user of the connection has neither role nor tenants", async () => {
    const database = await kit.open({ poolMax: 1 });
    const who = "SELECT current_user AS role, muster_tenants() AS tenants, pg_backend_pid() AS pid";
    type Who = { role: string; tenants: string[]; pid: number };
    const [system] = await database.transaction("system", (tx) => tx.query<Who>(who));
    expect(system?.role).to.equal("things_system");
    const failed = await database
      .transaction("system", async () => Promise.reject(new Error("no")))
      .catch((error: unknown) => error);
    expect(failed).to.have.property("message", "no");
    const [tenant] = await database.transaction({ tenants: ["a", "b"] }, (tx) => tx.query<Who>(who));
    expect(tenant).to.deep.equal({ role: "things", tenants: ["a", "b"], pid: system?.pid });
    const [bare] = await database.transaction({ tenants: [] }, (tx) => tx.query<Who>(who));
    expect(bare).to.deep.equal({ role: "things", tenants: [], pid: system?.pid });
    const [outside] = await database.sequelize.query(who);
    expect(outside).to.deep.equal([{ role: "things", tenants: [], pid: system?.pid }]);
  });

  it("keeps to its tenants when one prepared statement serves several scopes on one connection", async () => {
    const database = await kit.open({ poolMax: 1 });
    await database.transaction("system", async (tx) => {
      for (const tenant of ["plan-a", "plan-b", "plan-b"]) await tx.query(insert, [uuidv7(), tenant]);
    });
    for (let round = 0; round < 8; round++) {
      for (const [scope, n] of [
        [{ tenants: ["plan-a"] }, 1],
        [{ tenants: ["plan-b"] }, 2],
        ["system" as const, 3],
        [{ tenants: [] }, 0],
      ] as const) {
        const [row] = await database.transaction(scope, (tx) =>
          tx.query<{ n: number }>(count, ["plan-%"], { name: "count_things" }),
        );
        expect(row?.n).to.equal(n);
      }
    }
  });

  it("lets a tenant's transaction speak only as that tenant, and never read the outbox", async () => {
    const database = await kit.open();
    const foreign = await database
      .transaction({ tenants: ["a"] }, async (tx) => tx.publish(message({ tenantId: "b" })))
      .catch((error: unknown) => error);
    expect(foreign).to.have.property("code", "FORBIDDEN");
    for (const table of ["outbox", "inbox", "migrations"]) {
      const error = await database
        .transaction({ tenants: ["acme"] }, (tx) => tx.query(`SELECT * FROM ${table}`))
        .catch((thrown: unknown) => thrown);
      expect(sqlState(error), table).to.equal("42501");
    }
  });
});
