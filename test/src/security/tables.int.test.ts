import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { checkIsolation } from "@muster/database/catalogue";
import { setupDatabase, type TestDatabase } from "@muster/testing/database";
import { expect } from "chai";
import { after, before, describe, it } from "mocha";
import { repository } from "../processes.ts";

/** Every service that has tables, by its schema, which is also its role; and the sealed vault. */
const migrations = readdirSync(join(repository, "services"))
  .map((service) => ({
    schema: service.replaceAll("-", "_"),
    directory: join(repository, "services", service, "migrations"),
  }))
  .filter(({ directory }) => existsSync(directory))
  .concat({ schema: "sealed_vault", directory: join(repository, "services", "secrets", "vault-migrations") });

/** Tables that belong to no tenant. */
const shared: Readonly<Record<string, readonly string[]>> = {
  auth: ["signing_keys", "mesh_keys", "rate_limits"],
  vm_ops: ["claim_key", "liveness"],
  reliability: ["presence_watch"],
};

describe("every table of every service", function () {
  this.timeout(60_000);
  let database: TestDatabase;
  before(async () => (database = await setupDatabase({ migrations })));
  after(async () => await database?.destroy());

  for (const { schema } of migrations) {
    it(`${schema}: shows and gives nothing to a role without its tenant, or to another service's`, async () => {
      const checked = { schema, role: schema, shared: shared[schema] ?? [], systemOnly: ["outbox"] };
      expect(await checkIsolation(database.adminUrl, [checked])).to.deep.equal([]);
    });
  }
});
