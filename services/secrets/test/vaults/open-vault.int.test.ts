import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type MusterError } from "@muster/contracts/errors";
import { readSettings, SettingsError } from "@muster/service/settings";
import { createMetrics } from "@muster/telemetry/metrics";
import { eventually } from "@muster/testing/eventually";
import { expect } from "chai";
import { openVault } from "../../src/vaults/open-vault.ts";
import type { VaultParts } from "../../src/vaults/open-vault.ts";
import { vaultSettings } from "../../src/vaults/settings.ts";
import { VaultError } from "../../src/vaults/vault.ts";
import type { Vault } from "../../src/vaults/vault.ts";
import { selfSigned } from "./certificate.ts";
import { newPlace, patience } from "./conformance.ts";
import { hashicorpAt, silent } from "./houses.ts";
import { openPostgrest } from "./postgrest-stand-in.ts";
import { approle, openVaultStandIn } from "./vault-stand-in.ts";

const place = newPlace();
const fields = { value: "x" };
const quick = {
  MUSTER_SECRETS_VAULT_START_TIMEOUT_MS: "300",
  MUSTER_SECRETS_VAULT_BREAKER_PROBE_MS: "20",
};

function open(env: Record<string, string>, more: Partial<VaultParts> = {}) {
  const sealed = () => Promise.reject(new Error("the embedded vault was opened"));
  const parts: VaultParts = {
    sealed,
    logger: silent,
    metrics: createMetrics({ service: "secrets" }),
    signal: new AbortController().signal,
    ...more,
  };
  return openVault(readSettings(vaultSettings, { ...quick, ...env }), parts);
}
const thrownBy = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => undefined,
    (error: unknown) => error,
  );
const byRole = (address: string) => ({
  SECRETS_VAULT: "hashicorp",
  MUSTER_SECRETS_VAULT_ADDR: address,
  MUSTER_SECRETS_VAULT_AUTH: "approle",
  MUSTER_SECRETS_VAULT_ROLE_ID: approle.roleId,
  MUSTER_SECRETS_VAULT_SECRET_ID: approle.secretId,
});

describe("the vault of the settings", () => {
  it("is Vault, by its settings alone", async () => {
    const own = selfSigned("vault");
    const folder = await mkdtemp(join(tmpdir(), "muster-vault-"));
    const ca = join(folder, "ca.pem");
    await writeFile(ca, own.certificate);
    const server = await openVaultStandIn({ tls: own, namespace: "team" });
    const env = { MUSTER_SECRETS_VAULT_CA_FILE: ca, MUSTER_SECRETS_VAULT_NAMESPACE: "team" };
    const vault = await open({ ...byRole(server.url), ...env, MUSTER_SECRETS_VAULT_PREFIX: "muster/two" });
    await vault.write(place, fields, patience());
    expect(await vault.read(place, patience())).to.deep.equal(fields);
    expect(server.kv.paths).to.deep.equal([`muster/two/acme/${place.secretId}/1`]);
    expect((await vault.health()).ok).to.equal(true);
    await vault.close();
    await server.close();
    await rm(folder, { recursive: true });
  });

  it("is Supabase's, by its settings alone", async () => {
    const server = await openPostgrest();
    const env = { SUPABASE_URL: server.url, SUPABASE_SERVICE_ROLE_KEY: server.serviceRoleKey };
    const vault = await open({ SECRETS_VAULT: "supabase", ...env });
    await vault.write(place, fields, patience());
    expect(await vault.read(place, patience())).to.deep.equal(fields);
    await vault.close();
    await server.close();
  });

  it("is the embedded one by default, opened by its owner", async () => {
    const server = await openVaultStandIn();
    const vault = await open({}, { sealed: async () => hashicorpAt(server.url) });
    await vault.write(place, fields, patience());
    expect(await vault.read(place, patience())).to.deep.equal(fields);
    await vault.close();
    await server.close();
  });
});

describe("enforced, a start", () => {
  it("ends with every setting that is missing or contradicts another", async () => {
    const thrown = await thrownBy(
      open({ SECRETS_VAULT: "supabase", MUSTER_SECRETS_VAULT_ADDR: "https://v.example" }),
    );
    expect(thrown).to.be.instanceOf(SettingsError);
    const names = (thrown as SettingsError).faults.map(({ name }) => name);
    expect(names).to.deep.equal(["SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY", "MUSTER_SECRETS_VAULT_ADDR"]);
  });

  it("ends where the vault is away, with its address's fault", async () => {
    const server = await openVaultStandIn();
    await server.close();
    const thrown = await thrownBy(open(byRole(server.url)));
    expect(String(thrown)).to.include("SECRETS_VAULT=hashicorp").and.include("ECONNREFUSED");
  });

  it("ends where the vault hangs, is sealed or forbids, without a word of the credentials", async () => {
    const server = await openVaultStandIn();
    server.be({ kind: "silent" });
    const hung = await thrownBy(open({ ...byRole(server.url), MUSTER_SECRETS_VAULT_TIMEOUT_MS: "100" }));
    expect(String(hung)).to.include("did not answer in 100 ms");
    server.be({ kind: "well" });
    server.vault.sealed = true;
    expect(String(await thrownBy(open(byRole(server.url))))).to.include("sealed");
    server.vault.sealed = false;
    const forbidden = await thrownBy(
      open({ ...byRole(server.url), MUSTER_SECRETS_VAULT_SECRET_ID: "canary-wrong" }),
    );
    expect(String(forbidden)).to.include("400 to our login").and.not.include("canary");
    await server.close();
  });

  it("waits for a vault that is unsealed meanwhile, and not for one that forbids", async () => {
    const server = await openVaultStandIn();
    server.vault.sealed = true;
    const opening = open({ ...byRole(server.url), MUSTER_SECRETS_VAULT_START_TIMEOUT_MS: "20000" });
    await eventually(() => server.state.asked.length > 1);
    server.vault.sealed = false;
    const vault = await opening;
    await vault.write(place, fields, patience());
    await vault.close();
    const asked = server.state.asked.length;
    const env = { ...byRole(server.url), MUSTER_SECRETS_VAULT_MOUNT: "other" };
    await thrownBy(open({ ...env, MUSTER_SECRETS_VAULT_START_TIMEOUT_MS: "20000" }));
    const healths = server.state.asked.slice(asked).filter(({ path }) => path === "/v1/sys/health");
    expect(healths).to.have.length(1);
    await server.close();
  });

  it("ends for certificates that are none", async () => {
    const env = { ...byRole("https://127.0.0.1:1"), MUSTER_SECRETS_VAULT_CA_FILE: "/nowhere/ca.pem" };
    expect(String(await thrownBy(open(env)))).to.include("/nowhere/ca.pem cannot be read");
    const folder = await mkdtemp(join(tmpdir(), "muster-vault-"));
    const file = join(folder, "ca.pem");
    await writeFile(file, "not a certificate");
    expect(String(await thrownBy(open({ ...env, MUSTER_SECRETS_VAULT_CA_FILE: file })))).to.include("PEM");
    await rm(folder, { recursive: true });
  });

  it("is given up when the service stops", async () => {
    const server = await openVaultStandIn();
    server.vault.sealed = true;
    const stop = new AbortController();
    const env = { ...byRole(server.url), MUSTER_SECRETS_VAULT_START_TIMEOUT_MS: "600000" };
    const opening = thrownBy(open(env, { signal: stop.signal }));
    await eventually(() => server.state.asked.length > 1);
    stop.abort();
    expect(await opening).to.be.instanceOf(Error);
    await server.close();
  });
});

describe("in shadow, a start", () => {
  const shadow = { SECRETS_VAULT_MODE: "shadow" };

  it("goes on without settings: what needs the vault is refused and counted, and nothing is kept anywhere", async () => {
    const metrics = createMetrics({ service: "secrets" });
    const vault = await open({ ...shadow, SECRETS_VAULT: "hashicorp" }, { metrics });
    for (const work of [
      () => vault.write(place, fields, patience()),
      () => vault.read(place, patience()),
      () => vault.destroy(place, patience()),
    ]) {
      const thrown = await thrownBy(work());
      expect((thrown as MusterError).code).to.equal("VAULT_UNAVAILABLE");
      expect((thrown as MusterError).retryAfterMs).to.be.greaterThan(0);
    }
    const health = await vault.health();
    expect(health.ok).to.equal(false);
    expect(health.reason).to.include("MUSTER_SECRETS_VAULT_ADDR");
    expect(await metrics.registry.metrics()).to.match(
      /calls_total\{[^}]*operation="write",outcome="unavailable"[^}]*\} 1/,
    );
    await vault.close();
  });

  it("goes on without the vault, and uses it when it is there", async () => {
    const server = await openVaultStandIn();
    server.vault.sealed = true;
    const vault = await open({ ...shadow, ...byRole(server.url) });
    expect((await vault.health()).ok).to.equal(false);
    expect(await thrownBy(vault.write(place, fields, patience()))).to.have.property(
      "code",
      "VAULT_UNAVAILABLE",
    );
    server.vault.sealed = false;
    await eventually(async () => (await vault.health()).ok);
    await vault.write(place, fields, patience());
    expect(await vault.read(place, patience())).to.deep.equal(fields);
    await vault.close();
    await server.close();
  });

  it("opens the embedded vault when its database is there", async () => {
    const server = await openVaultStandIn();
    let opened = 0;
    const sealed = async (): Promise<Vault> => {
      opened += 1;
      if (opened < 3) throw new VaultError("unavailable", "its database is away");
      return hashicorpAt(server.url);
    };
    const vault = await open(shadow, { sealed });
    const write = () => vault.write(place, fields, patience());
    expect(opened).to.equal(1);
    await Promise.all(Array.from({ length: 10 }, () => thrownBy(write())));
    expect(opened, "once for all who ask").to.equal(2);
    await eventually(async () => (await vault.health()).ok);
    await Promise.all(Array.from({ length: 10 }, write));
    expect(opened).to.equal(3);
    await vault.close();
    await server.close();
  });
});

describe("in every mode, a start", () => {
  it("ends for what is no outage of the embedded vault, like a wrong key", async () => {
    for (const SECRETS_VAULT_MODE of ["shadow", "enforced"]) {
      const sealed = () => Promise.reject(new Error("the key opens nothing"));
      const thrown = await thrownBy(open({ SECRETS_VAULT_MODE }, { sealed }));
      expect(String(thrown)).to.include("the key opens nothing");
    }
  });
});
