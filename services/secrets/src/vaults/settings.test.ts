import { printSettings, readSettings, SettingsError } from "@muster/service/settings";
import { expect } from "chai";
import { vaultFaults, vaultSettings } from "./settings.ts";

const read = (env: Record<string, string>) => readSettings(vaultSettings, env);
const faultsOf = (env: Record<string, string>) => vaultFaults(read(env)).map(({ name }) => name);
const hashicorp = { SECRETS_VAULT: "hashicorp", MUSTER_SECRETS_VAULT_ADDR: "https://vault.example.org:8200" };

describe("the settings of vaults", () => {
  it("are the embedded vault, enforced, where nothing is said", () => {
    const config = read({});
    expect(config.SECRETS_VAULT).to.equal("sealed");
    expect(config.SECRETS_VAULT_MODE).to.equal("enforced");
    expect(vaultFaults(config)).to.deep.equal([]);
  });

  it("take an address by TLS, or on this machine", () => {
    const good = [
      "https://v.example",
      "https://v.example:8200/proxy",
      "http://127.0.0.1:8200",
      "http://localhost:1",
    ];
    for (const address of [...good, "http://[::1]:8200"]) {
      expect(read({ MUSTER_SECRETS_VAULT_ADDR: address, SUPABASE_URL: address }).SUPABASE_URL).to.equal(
        address,
      );
    }
    const bad = [
      "http://v.example",
      "http://127.0.0.1.example",
      "http://localhost.example",
      "ftp://127.0.0.1",
      "vault",
    ];
    for (const address of [
      ...bad,
      "https://user:pw@v.example",
      "https://v.example?x=1",
      "https://v.example/#x",
    ]) {
      expect(() => read({ MUSTER_SECRETS_VAULT_ADDR: address }), address).to.throw(SettingsError);
      expect(() => read({ SUPABASE_URL: address }), address).to.throw(SettingsError);
    }
  });

  it("take names for paths that are one path whoever reads them", () => {
    for (const path of ["secret", "teams/kv-2", "a.b/c_d"]) {
      expect(read({ MUSTER_SECRETS_VAULT_MOUNT: path }).MUSTER_SECRETS_VAULT_MOUNT).to.equal(path);
    }
    for (const path of ["/secret", "secret/", "a//b", "..", "a/../b", "a.", "a b", "a?b", "a%2fb"]) {
      expect(() => read({ MUSTER_SECRETS_VAULT_MOUNT: path }), path).to.throw(SettingsError);
      expect(() => read({ MUSTER_SECRETS_VAULT_PREFIX: path }), path).to.throw(SettingsError);
      expect(() => read({ MUSTER_SECRETS_VAULT_NAMESPACE: path }), path).to.throw(SettingsError);
    }
  });

  it("name everything that a vault lacks at once", () => {
    expect(faultsOf({ SECRETS_VAULT: "hashicorp" })).to.deep.equal([
      "MUSTER_SECRETS_VAULT_ADDR",
      "MUSTER_SECRETS_VAULT_TOKEN",
    ]);
    expect(faultsOf({ SECRETS_VAULT: "hashicorp", MUSTER_SECRETS_VAULT_AUTH: "approle" })).to.deep.equal([
      "MUSTER_SECRETS_VAULT_ADDR",
      "MUSTER_SECRETS_VAULT_ROLE_ID",
      "MUSTER_SECRETS_VAULT_SECRET_ID",
    ]);
    expect(faultsOf({ ...hashicorp, MUSTER_SECRETS_VAULT_AUTH: "kubernetes" })).to.deep.equal([
      "MUSTER_SECRETS_VAULT_K8S_ROLE",
    ]);
    expect(faultsOf({ SECRETS_VAULT: "supabase" })).to.deep.equal([
      "SUPABASE_URL",
      "SUPABASE_SERVICE_ROLE_KEY",
    ]);
  });

  it("name what contradicts: two credentials, those of another login, the address of another vault", () => {
    const token = { MUSTER_SECRETS_VAULT_TOKEN: "t" };
    expect(faultsOf({ ...hashicorp, ...token })).to.deep.equal([]);
    expect(faultsOf({ ...hashicorp, ...token, MUSTER_SECRETS_VAULT_TOKEN_FILE: "/t" })).to.deep.equal([
      "MUSTER_SECRETS_VAULT_TOKEN_FILE",
    ]);
    expect(faultsOf({ ...hashicorp, ...token, MUSTER_SECRETS_VAULT_SECRET_ID: "s" })).to.deep.equal([
      "MUSTER_SECRETS_VAULT_SECRET_ID",
    ]);
    expect(faultsOf({ ...hashicorp, SECRETS_VAULT: "sealed" })).to.deep.equal(["MUSTER_SECRETS_VAULT_ADDR"]);
    // Other parts of an installation have these for themselves.
    expect(faultsOf({ SUPABASE_URL: "https://x.supabase.co", SUPABASE_SERVICE_ROLE_KEY: "k" })).to.deep.equal(
      [],
    );
  });

  it("show no credential, neither printed nor in a fault", () => {
    const names = [
      "SUPABASE_SERVICE_ROLE_KEY",
      "MUSTER_SECRETS_VAULT_TOKEN",
      "MUSTER_SECRETS_VAULT_SECRET_ID",
    ];
    const env = Object.fromEntries(names.map((name) => [name, "canary-credential"]));
    expect(printSettings(vaultSettings, env)).not.to.include("canary");
    const faults = vaultFaults(read({ ...hashicorp, ...env, MUSTER_SECRETS_VAULT_AUTH: "kubernetes" }));
    expect(faults.length).to.be.greaterThan(2);
    expect(new SettingsError(faults).message).not.to.include("canary");
    const unprintable = Object.fromEntries(names.map((name) => [name, "canary\ncredential"]));
    expect(() => read(unprintable))
      .to.throw(SettingsError)
      .with.property("message")
      .that.does.not.include("canary");
  });
});
