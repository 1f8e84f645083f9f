import { generateKeyPairSync, sign } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, describe, it } from "mocha";
import { expect } from "chai";
import { createClient } from "@muster/client/client";
import { MusterError } from "@muster/contracts/errors";
import { tokenExchange } from "@muster/contracts/routes/tokens";
import { openSystem, type System } from "./system.ts";

const codeOf = async (call: Promise<unknown>): Promise<string> =>
  await call.then(
    () => "no error",
    (error: unknown) => (error instanceof MusterError ? error.code : String(error)),
  );

/** An issuer like a realm of Keycloak: discovery, one RSA key, tokens with roles of the realm. */
async function openRealm() {
  const { publicKey, privateKey } = generateKeyPairSync("rsa", { modulusLength: 2_048 });
  const key = { ...publicKey.export({ format: "jwk" }), kid: "realm-1", use: "sig", alg: "RS256" };
  const server = createServer((request, response) => {
    const found = request.url === "/.well-known/openid-configuration";
    response.end(JSON.stringify(found ? { issuer, jwks_uri: `${issuer}/certs` } : { keys: [key] }));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const issuer = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const tokenOf = (subject: string, roles: string[]) => {
    const now = Math.floor(Date.now() / 1_000);
    const claims = {
      iss: issuer,
      aud: "muster",
      sub: subject,
      iat: now,
      exp: now + 300,
      realm_access: { roles },
    };
    const parts = [{ alg: "RS256", kid: key.kid, typ: "JWT" }, claims];
    const text = parts.map((part) => Buffer.from(JSON.stringify(part)).toString("base64url")).join(".");
    return `${text}.${sign("sha256", Buffer.from(text), privateKey).toString("base64url")}`;
  };
  return { issuer, tokenOf, close: () => new Promise((resolve) => server.close(resolve)) };
}

describe("a person whom an outside issuer vouches for, on the whole system", function () {
  this.timeout(60_000);
  let system: System;
  let realm: Awaited<ReturnType<typeof openRealm>>;
  before(async () => {
    realm = await openRealm();
    system = await openSystem({ env: { auth: { MUSTER_AUTH_ISSUER_NETWORKS: "127.0.0.0/8, ::1/128" } } });
  });
  after(async () => {
    await system?.close();
    await realm?.close();
  });

  it("works in the tenant that trusts the issuer, within the role that is mapped, until the account is disabled", async () => {
    const { client } = system;
    const trust = {
      issuer: realm.issuer,
      audience: "muster",
      roles_claim: "realm_access.roles",
      role_map: [{ value: "operators", role: "member" as const }],
    };
    const exchange = (subject_token: string) =>
      client.exchangeApiKey({
        body: {
          grant_type: tokenExchange,
          subject_token,
          subject_token_type: "urn:ietf:params:oauth:token-type:access_token",
        },
      });
    const token = realm.tokenOf("ada", ["operators"]);
    expect(await codeOf(exchange(token)), "before anybody trusts it").to.equal("INVALID_GRANT");
    const { issuer } = (await client.createIssuer({ body: trust })).data;
    const given = (await exchange(token)).data;
    expect(given.issued_token_type).to.equal("urn:ietf:params:oauth:token-type:access_token");

    const ada = createClient({ baseUrl: system.gatewayUrl, token: given.access_token });
    const { principal } = given;
    expect((await ada.whoami()).data).to.deep.equal(principal);
    expect(principal.roles).to.deep.equal(["member"]);
    const vm = await system.registerVm("hers");
    const { command } = (
      await ada.acceptCommand({ body: { vm_uuid: vm, action: "exec", params: { program: "true" } } })
    ).data;
    expect(command.requested_by).to.equal(principal.subject);
    expect(await codeOf(ada.listUsers())).to.equal("FORBIDDEN");
    expect(await codeOf(ada.createIssuer({ body: trust }))).to.equal("FORBIDDEN");
    expect(await codeOf(exchange(realm.tokenOf("eve", ["visitors"])))).to.equal("INVALID_GRANT");

    const id = principal.subject.slice("user:".length);
    const { user } = (await client.getUser({ params: { id } })).data;
    expect(user.external).to.deep.equal({ issuer: realm.issuer, subject: "ada" });
    await client.disableUser({ params: { id } });
    expect(await codeOf(exchange(token))).to.equal("INVALID_GRANT");
    expect(await codeOf(ada.listTenants())).to.equal("INVALID_OR_MISSING_BEARER_TOKEN");
    await client.removeIssuer({ params: { id: issuer.id } });
    expect(await codeOf(exchange(realm.tokenOf("grace", ["operators"])))).to.equal("INVALID_GRANT");
  });
});
