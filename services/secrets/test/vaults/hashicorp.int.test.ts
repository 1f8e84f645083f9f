import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { eventually, eventuallyHolds } from "@muster/testing/eventually";
import { expect } from "chai";
import { appRole, givenToken, kubernetes, lineOf } from "../../src/vaults/hashicorp/credentials.ts";
import { type VaultError } from "../../src/vaults/vault.ts";
import { faultOf, newPlace, patience } from "./conformance.ts";
import { hashicorpAt, setupHashicorp } from "./houses.ts";
import { approle, openVaultStandIn, serviceAccount } from "./vault-stand-in.ts";

const fields = { value: "kept" };

describe("the vault hashicorp: what it says", () => {
  it("has a path of its own for each version, written where nothing is", async () => {
    const { vault, server, close } = await setupHashicorp();
    const place = newPlace({ version: 7 });
    await vault.write(place, fields, patience());
    expect(server.kv.paths).to.deep.equal([`muster/acme/${place.secretId}/7`]);
    const sent = server.state.asked.find(({ path }) => path.startsWith("/v1/secret/data/"));
    expect(sent?.method).to.equal("POST");
    expect(sent?.body).to.deep.equal({ options: { cas: 0 }, data: fields });
    await close();
  });

  it("takes the 404 of a deleted and of a destroyed version for missing, and never writes over them", async () => {
    const { vault, server, close } = await setupHashicorp();
    const token = server.makeToken().secret;
    for (const [method, part] of [
      ["POST", "delete"],
      ["PUT", "destroy"],
    ] as const) {
      const place = newPlace();
      await vault.write(place, fields, patience());
      const path = `${server.url}/v1/secret/${part}/muster/acme/${place.secretId}/1`;
      const headers = { "x-vault-token": token, "x-vault-request": "true" };
      await fetch(path, { method, headers, body: JSON.stringify({ versions: [1] }) });
      const read = await vault.read(place, patience()).catch((error: unknown) => error);
      expect((read as VaultError).fault).to.equal("missing");
      expect((read as VaultError).message).to.include("deleted");
      expect(await faultOf(vault.write(place, fields, patience()))).to.equal("conflict");
      await vault.destroy(place, patience());
      await vault.write(place, fields, patience());
      expect(await vault.read(place, patience())).to.deep.equal(fields);
    }
    await close();
  });

  it("gives no material that came damaged, or in another encoding than was asked for", async () => {
    const { vault, server, close } = await setupHashicorp();
    const body = (value: string) =>
      Buffer.from(
        `{"data":{"data":{"value":"${value}"},"metadata":{"destroyed":false,"version":1}}}`,
        "latin1",
      );
    const read = () => vault.read(newPlace(), patience());
    server.be({ kind: "status", status: 200, body: body("x") }, { path: "/secret/" });
    expect(await read()).to.deep.equal({ value: "x" });
    server.be({ kind: "status", status: 200, body: body("\xff") }, { path: "/secret/" });
    expect(await faultOf(read())).to.equal("garbled");
    const headers = { "content-encoding": "gzip" };
    server.be({ kind: "status", status: 200, body: body("x"), headers }, { path: "/secret/" });
    expect(await faultOf(read())).to.equal("garbled");
    server.be({ kind: "status", status: 200, body: body("\\ud800") }, { path: "/secret/" });
    expect(await faultOf(read())).to.equal("garbled");
    await close();
  });

  it("does not take a path that nothing is mounted at for a missing secret", async () => {
    const { vault, close } = await setupHashicorp({ mount: "elsewhere" }, (server) =>
      server.vault.may.push("elsewhere/"),
    );
    expect(await faultOf(vault.read(newPlace(), patience()))).to.equal("refused");
    expect(await faultOf(vault.destroy(newPlace(), patience()))).to.equal("refused");
    expect(await faultOf(vault.check(patience()))).to.equal("refused");
    await close();
  });

  it("is checked: sealed, not initialized, a lonely standby, version 1, a policy that forbids", async () => {
    const cases: readonly (readonly [string, Parameters<typeof setupHashicorp>[1]])[] = [
      ["unavailable", (server) => (server.vault.sealed = true)],
      ["unavailable", (server) => (server.vault.initialized = false)],
      ["unavailable", (server) => (server.vault.standby = true)],
      ["refused", (server) => (server.vault.kvVersion = "1")],
      ["refused", (server) => (server.vault.may = ["auth/token/"])],
      ["none", (server) => (server.vault.may = ["auth/token/", "secret/"])],
    ];
    for (const [fault, prepare] of cases) {
      const { vault, close } = await setupHashicorp({}, prepare);
      expect(await faultOf(vault.check(patience())), String(prepare)).to.equal(fault);
      await close();
    }
  });

  it("works within a namespace, and says so at its login too", async () => {
    const { vault, server, close } = await setupHashicorp({ namespace: "teams/a" });
    await vault.check(patience());
    await vault.write(newPlace(), fields, patience());
    const outside = hashicorpAt(server.url);
    expect(await faultOf(outside.read(newPlace(), patience()))).to.equal("refused");
    await outside.close();
    await close();
  });
});

describe("the vault hashicorp: its token", () => {
  it("is taken by one login, however many wait for it", async () => {
    const { vault, server, close } = await setupHashicorp();
    await Promise.all(Array.from({ length: 20 }, () => faultOf(vault.read(newPlace(), patience()))));
    expect(server.vault.logins).to.equal(1);
    await close();
  });

  it("is replaced by one login when it is unknown, and all who were refused go on", async () => {
    const { vault, server, close } = await setupHashicorp();
    const place = newPlace();
    await vault.write(place, fields, patience());
    server.forgetTokens();
    const read = await Promise.all(Array.from({ length: 20 }, () => vault.read(place, patience())));
    for (const one of read) expect(one).to.deep.equal(fields);
    expect(server.vault.logins).to.equal(2);
    await close();
  });

  it("is not replaced when it is known: then the refusal was meant", async () => {
    const { vault, server, close } = await setupHashicorp({}, (one) => (one.vault.may = ["auth/token/"]));
    for (let i = 0; i < 5; i++) expect(await faultOf(vault.read(newPlace(), patience()))).to.equal("refused");
    expect(server.vault.logins).to.equal(1);
    await close();
  });

  it("is replaced once for a call, and no more", async () => {
    const { vault, server, close } = await setupHashicorp();
    await vault.check(patience());
    // Vault knows no token any more as soon as it has made one.
    server.vault.may = [];
    server.forgetTokens();
    const asked = server.state.asked.length;
    expect(await faultOf(vault.read(newPlace(), patience()))).to.equal("refused");
    const paths = server.state.asked.slice(asked).map(({ path }) => path.replace(/muster\/.*/, ""));
    expect(paths).to.deep.equal([
      "/v1/secret/data/",
      "/v1/auth/token/lookup-self",
      "/v1/auth/approle/login",
      "/v1/secret/data/",
    ]);
    await close();
  });

  it("is renewed in time, and taken anew when it nears its greatest age", async () => {
    const { vault, server, close } = await setupHashicorp({}, (one) => {
      one.vault.leases = { ttlSeconds: 1, maxSeconds: 3, renewable: true };
    });
    const place = newPlace();
    await vault.write(place, fields, patience());
    await eventuallyHolds(() => expect(server.vault.renewals).to.be.greaterThan(1));
    expect(server.vault.logins).to.equal(1);
    await eventuallyHolds(() => expect(server.vault.logins).to.be.greaterThan(1));
    expect(await vault.read(place, patience())).to.deep.equal(fields);
    await close();
  });

  it("is taken anew in time where it cannot be renewed", async () => {
    const { vault, server, close } = await setupHashicorp({}, (one) => {
      one.vault.leases = { ttlSeconds: 1, maxSeconds: 100, renewable: false };
    });
    await vault.check(patience());
    await eventuallyHolds(() => expect(server.vault.logins).to.be.greaterThan(2));
    expect(server.vault.renewals).to.equal(0);
    expect(server.state.asked.filter(({ path }) => path.includes("lookup-self"))).to.have.length(0);
    await close();
  });

  it("is tried to be renewed again after an outage", async () => {
    const { vault, server, close } = await setupHashicorp({}, (one) => {
      one.vault.leases = { ttlSeconds: 2, maxSeconds: 100, renewable: true };
    });
    await vault.check(patience());
    server.be({ kind: "status", status: 500 }, { path: "renew-self", calls: 1 });
    await eventuallyHolds(() => expect(server.vault.renewals + server.vault.logins).to.be.greaterThan(1));
    await vault.check(patience());
    await close();
  });

  it("is revoked at the end where a login gave it, and left where it was given", async () => {
    const loggedIn = await setupHashicorp();
    await loggedIn.vault.check(patience());
    await loggedIn.vault.close();
    expect(loggedIn.server.vault.revoked).to.equal(1);
    await loggedIn.close();
    const server = await openVaultStandIn();
    const { secret } = server.makeToken();
    const vault = hashicorpAt(server.url, { credentials: givenToken(() => Promise.resolve(secret)) });
    await vault.check(patience());
    await vault.close();
    expect(server.vault.revoked).to.equal(0);
    await server.close();
  });

  it("does not wait for a login longer than whoever asks", async () => {
    const { vault, server, close } = await setupHashicorp({ timeoutMs: 600_000 });
    server.be({ kind: "silent" }, { path: "login" });
    const given = new AbortController();
    const fault = faultOf(vault.read(newPlace(), given.signal));
    await eventuallyHolds(() => expect(server.state.held).to.equal(1));
    given.abort();
    expect(await fault).to.equal("unavailable");
    await close();
  });
});

describe("the vault hashicorp: ways to log in", () => {
  const folders: string[] = [];
  after(() => Promise.all(folders.map((folder) => rm(folder, { recursive: true }))));

  async function fileWith(text: string): Promise<string> {
    const folder = await mkdtemp(join(tmpdir(), "muster-vault-"));
    folders.push(folder);
    await writeFile(join(folder, "credential"), text);
    return join(folder, "credential");
  }

  it("logs in by AppRole and by a Kubernetes service account, from files", async () => {
    const secretId = lineOf(await fileWith(`${approle.secretId}\n`));
    const jwt = lineOf(await fileWith(serviceAccount.jwt));
    for (const credentials of [
      appRole({ mount: "approle", roleId: approle.roleId, secretId }),
      kubernetes({ mount: "kubernetes", role: serviceAccount.role, jwt }),
    ]) {
      const { vault, server, close } = await setupHashicorp({ credentials });
      await vault.check(patience());
      expect(server.vault.logins).to.equal(1);
      await close();
    }
  });

  it("reads a Kubernetes token anew for each login", async () => {
    const path = await fileWith("expired");
    const credentials = kubernetes({ mount: "kubernetes", role: serviceAccount.role, jwt: lineOf(path) });
    const { vault, close } = await setupHashicorp({ credentials });
    expect(await faultOf(vault.check(patience()))).to.equal("refused");
    await writeFile(path, serviceAccount.jwt);
    await vault.check(patience());
    await close();
  });

  it("is refused with what Vault does not know, and says what of it it was", async () => {
    const wrong = appRole({ mount: "approle", roleId: "x", secretId: () => Promise.resolve("canary-wrong") });
    const { vault, close } = await setupHashicorp({ credentials: wrong });
    const thrown = await vault.check(patience()).catch((error: unknown) => error);
    expect((thrown as VaultError).fault).to.equal("refused");
    expect((thrown as VaultError).message)
      .to.include("400 to our login")
      .and.not.include("canary");
    await close();
  });

  it("takes another token from its file when the one before is unknown", async () => {
    const server = await openVaultStandIn();
    const path = await fileWith(server.makeToken().secret);
    const vault = hashicorpAt(server.url, { credentials: givenToken(lineOf(path)) });
    await vault.check(patience());
    server.forgetTokens();
    expect(await faultOf(vault.check(patience()))).to.equal("refused");
    await writeFile(path, `${server.makeToken().secret}\n`);
    await vault.check(patience());
    await vault.close();
    await server.close();
  });

  it("renews a given token", async () => {
    const server = await openVaultStandIn();
    const { secret } = server.makeToken({ ttlSeconds: 2, maxSeconds: 100, renewable: true });
    const vault = hashicorpAt(server.url, { credentials: givenToken(() => Promise.resolve(secret)) });
    await vault.check(patience());
    await eventually(() => server.vault.renewals > 1);
    await vault.check(patience());
    await vault.close();
    await server.close();
  });

  it("takes no header from a file: one line, or nothing", async () => {
    for (const text of ["", "two\nlines", "ü", "\0"]) {
      const path = await fileWith(text);
      const thrown = await lineOf(path)().catch((error: unknown) => error);
      expect((thrown as VaultError).fault).to.equal("refused");
    }
    expect(await faultOf(lineOf("/nowhere/credential")())).to.equal("refused");
  });
});
