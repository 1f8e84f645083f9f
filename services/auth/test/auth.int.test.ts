import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { apiKeyPattern, authRequests } from "@muster/contracts/auth";
import { loginName } from "@muster/contracts/senders";
import { openVerifier } from "@muster/identity/verify";
import { expect } from "chai";
import { ensureFirstOwner } from "../src/tenants/first-owner.ts";
import { codeOf, context, keyEncryptionKey, logger, makeKey, metrics, setup } from "./setup.ts";
import type { Setup } from "./setup.ts";

describe("auth", function () {
  this.timeout(60_000);
  let s: Setup;
  before(async () => (s = await setup()));
  after(() => s.close());

  it("shows a tenant its own keys, and no tenant the keys that sign", async () => {
    await makeKey(s.database, "isolated");
    const refused = s.database.transaction({ tenants: ["isolated"] }, (tx) =>
      tx.query("SELECT * FROM signing_keys"),
    );
    expect(await codeOf(refused)).to.include("permission denied");
    const seen = await s.database.transaction({ tenants: ["isolated"] }, (tx) =>
      tx.query<{ tenant_id: string }>("SELECT DISTINCT tenant_id FROM api_keys"),
    );
    expect(seen).to.deep.equal([{ tenant_id: "isolated" }]);
  });

  it("makes one tenant, one owner and one key of twenty first starts at once", async () => {
    const owner = { tenantId: "twenty", email: "Owner@Example.org", newKey: false };
    const made = await Promise.all(Array.from({ length: 20 }, () => ensureFirstOwner(s.database, owner)));
    const keys = made.flatMap(({ owner: { api_key } }) => (api_key === null ? [] : [api_key]));
    expect(keys).to.have.length(1);
    expect(keys[0]).to.match(apiKeyPattern);
    const counts = await s.database.transaction("system", (tx) =>
      tx.query(`SELECT (SELECT count(*) FROM tenants WHERE tenant_id = 'twenty') AS tenants,
                       (SELECT count(*) FROM principals WHERE tenant_id = 'twenty') AS principals,
                       (SELECT count(*) FROM api_keys WHERE tenant_id = 'twenty') AS keys,
                       (SELECT count(*) FROM audit_events WHERE tenant_id = 'twenty') AS audited`),
    );
    expect(counts).to.deep.equal([{ tenants: 1, principals: 1, keys: 1, audited: 3 }]);
  });

  it("prints the first key once from the command line, and another one on request", async () => {
    const program = fileURLToPath(new URL("../src/bootstrap.js", import.meta.url));
    const env = { ...process.env, MUSTER_DATABASE_URL: s.postgres.urlFor("auth") };
    const run = async (...more: string[]): Promise<unknown> => {
      const argv = [program, "--email", "a@example.org", "--tenant", "printed", ...more];
      const { stdout } = await promisify(execFile)(process.execPath, argv, { env });
      return JSON.parse(stdout) as unknown;
    };
    expect(await run())
      .to.have.nested.property("owner.api_key")
      .that.matches(apiKeyPattern);
    expect(await run()).to.deep.equal({
      tenant_id: "printed",
      owner: { email: "a@example.org", api_key: null },
    });
    expect(await run("--new-key"))
      .to.have.nested.property("owner.api_key")
      .that.matches(apiKeyPattern);
  });

  it("exchanges a key for a token that verifies by the published keys and names tenant and role", async () => {
    const key = await makeKey(s.database, "exchanged");
    const { access_token, principal, expires_in_seconds } = await s.exchange(key);
    const verifier = openVerifier({
      fetchKeys: () => s.asker.request(authRequests.getKeys, {}, context),
      fetchRevocations: (page) => s.asker.request(authRequests.listTokenRevocations, page, context),
      mode: "enforced",
      shadowTenantId: "shadow-tenant",
      logger,
      metrics,
    });
    expect(await verifier.verify(access_token)).to.deep.equal(principal);
    expect(principal).to.deep.include({ tenant_id: "exchanged", roles: ["owner"] });
    expect(expires_in_seconds).to.equal(600);
    const again = await Promise.all(Array.from({ length: 100 }, () => s.exchange(key)));
    expect(new Set(again.map((one) => one.access_token))).to.deep.equal(new Set([access_token]));
    const used = await s.database.transaction("system", (tx) =>
      tx.query("SELECT 1 FROM api_keys WHERE tenant_id = 'exchanged' AND last_used_at IS NOT NULL"),
    );
    expect(used).to.have.length(1);
  });

  it("answers unknown, wrong, expired, revoked, disabled and suspended alike", async () => {
    const key = await makeKey(s.database, "refused");
    const secret = randomBytes(32).toString("base64url");
    const wrong = [`mk_${key.split("_")[1]}_${secret}`, `mk_zzzzzzzzzz_${secret}`];
    for (const one of wrong)
      expect(await codeOf(s.exchange(one))).to.equal("INVALID_OR_MISSING_BEARER_TOKEN");
    const changes = [
      ["api_keys", "expires_at = clock_timestamp() - interval '1 s'", "expires_at = NULL"],
      ["api_keys", "revoked_at = clock_timestamp()", "revoked_at = NULL"],
      ["principals", "disabled_at = clock_timestamp()", "disabled_at = NULL"],
      ["tenants", "state = 'suspended'", "state = 'active'"],
    ] as const;
    for (const [table, change, back] of changes) {
      const set = (what: string) =>
        s.database.transaction("system", (tx) =>
          tx.execute(`UPDATE ${table} SET ${what} WHERE tenant_id = 'refused'`),
        );
      await set(change);
      const answer = await codeOf(s.exchange(key));
      await set(back);
      expect(answer, change).to.equal("INVALID_OR_MISSING_BEARER_TOKEN");
      expect(await codeOf(s.exchange(key)), `after ${change}`).to.equal("none");
    }
  });

  it("keeps no key in clear, anywhere", async () => {
    const key = await makeKey(s.database, "hashed");
    const dump = await s.database.transaction("system", (tx) =>
      tx.query(
        "SELECT to_jsonb(k)::text AS row FROM api_keys k UNION ALL SELECT to_jsonb(a)::text FROM audit_events a",
      ),
    );
    expect(JSON.stringify(dump)).to.not.include(key.slice(14));
  });

  it("lets nobody change what was audited", async () => {
    await makeKey(s.database, "audited");
    for (const change of ["UPDATE audit_events SET actor = 'x'", "DELETE FROM audit_events"]) {
      const refused = s.database.transaction("system", (tx) => tx.query(change));
      expect(await codeOf(refused)).to.match(/permission denied|append-only/);
    }
  });

  it("does not start with settings that contradict each other: it names each with rule and value", async () => {
    const program = fileURLToPath(new URL("../src/main.js", import.meta.url));
    const env = {
      ...process.env,
      MUSTER_DATABASE_URL: s.postgres.urlFor("auth"),
      MUSTER_AMQP_URL: await s.vhost.urlAs(loginName("auth")),
      MUSTER_MANAGEMENT_URL: s.vhost.managementUrl,
      MUSTER_AUTH_KEY_ENCRYPTION_KEY: keyEncryptionKey.toString("base64"),
      MUSTER_INTERNAL_PORT: "0",
      MUSTER_KEYS_MAX_AGE_SECONDS: "3000",
    };
    const ended = promisify(execFile)(process.execPath, [program], { env });
    const failed: unknown = await ended.catch((error: unknown) => error);
    expect(failed).to.include({ code: 78 });
    const name = "MUSTER_AUTH_KEY_PUBLISH_AHEAD_SECONDS";
    const rule = "must be at least twice MUSTER_KEYS_MAX_AGE_SECONDS, which is 3000";
    expect(failed).to.have.property("stdout").that.includes(`${name}: ${rule}`).and.includes('is \\"3600\\"');
  });
});
