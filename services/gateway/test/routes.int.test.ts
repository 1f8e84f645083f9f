import { randomBytes } from "node:crypto";
import { wireError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import { roles } from "@muster/contracts/principal";
import { pathParameters } from "@muster/contracts/route";
import type { Route } from "@muster/contracts/route";
import { routes } from "@muster/contracts/routes";
import { expect } from "chai";
import { z } from "zod";
import { serveVmOps } from "./peers.ts";
import { setup } from "./setup.ts";
import type { Bundle } from "./setup.ts";

const declared: [string, Route][] = Object.entries(routes);
const failure = z.object({ success: z.literal(false), error: wireError });

async function send(s: Bundle, route: Route, bearer?: string): Promise<{ status: number; code: string }> {
  const path = pathParameters(route.path).reduce(
    (text, name) => text.replace(`{${name}}`, uuidv7()),
    route.path,
  );
  const response = await fetch(`${s.url}${path}`, {
    method: route.method,
    headers: bearer === undefined ? {} : { authorization: `Bearer ${bearer}` },
  });
  const body: unknown = await response.json();
  return { status: response.status, code: response.ok ? "none" : failure.parse(body).error.code };
}

describe("every route, before its owner is asked,", function () {
  this.timeout(60_000);
  let s: Bundle;
  before(async () => (s = await setup()));
  after(() => s.close());

  for (const [key, route] of declared.filter(([, { access }]) => access !== "public")) {
    it(`${key}: refuses no token, garbage, unknown and revoked keys, expired tokens and those for others, each by its code`, async () => {
      const unknownKey = `mk_abcdefghij_${randomBytes(32).toString("base64url")}`;
      const expired = await s.issuer.token("owner", { expiresInSeconds: -60 });
      const elsewhere = await s.issuer.token("owner", { audience: "another-service" });
      const stranger = await s.issuer.token("owner", { issuer: "https://another.issuer" });
      const revoked = s.newKey("owner");
      s.revokeKey(revoked);
      const invalid = { status: 401, code: "INVALID_OR_MISSING_BEARER_TOKEN" };
      expect(await send(s, route)).to.deep.equal({ status: 401, code: "MISSING_BEARER_TOKEN" });
      for (const bearer of ["garbage", "a.b.c", unknownKey, revoked, expired, elsewhere, stranger]) {
        expect(await send(s, route, bearer), bearer).to.deep.equal(invalid);
      }
    });
  }

  for (const [key, route] of declared.filter(([, { access }]) => access === "admin" || access === "owner")) {
    it(`${key}: refuses every lower role, whether it comes by key or by token, and names what is missing`, async () => {
      const needed = roles.findIndex((role) => role === route.access);
      for (const lower of roles.slice(0, needed)) {
        const refused = { status: 403, code: "FORBIDDEN" };
        expect(await send(s, route, await s.issuer.token(lower))).to.deep.equal(refused);
        expect(await send(s, route, s.newKey(lower))).to.deep.equal(refused);
      }
    });
  }

  it("wants a token, but for those that give tokens, pair agents, and end tokens", () => {
    const open = declared.flatMap(([key, { access }]) =>
      access === "public" || access === "credentials" ? [[key, access]] : [],
    );
    expect(open).to.deep.equal([
      ["pairAgent", "public"],
      ["exchangeApiKey", "credentials"],
      ["revokeToken", "public"],
    ]);
  });

  it("is in the reference, and the key set is public", async () => {
    const reference = z
      .object({ paths: z.record(z.string(), z.record(z.string(), z.unknown())) })
      .parse(await (await fetch(`${s.url}/api/v1/openapi.json`)).json());
    for (const [key, route] of declared) {
      expect(reference.paths[route.path], key).to.have.property(route.method.toLowerCase());
    }
    const answer = await fetch(`${s.url}/.well-known/jwks.json`);
    expect(await answer.json()).to.deep.equal({ keys: s.issuer.keys });
    expect(answer.headers.get("cache-control")).to.match(/^public, max-age=\d+$/);
    expect((await fetch(`${s.url}/docs`)).status).to.equal(200);
  });

  it("answers who the token or the key is, and exchanges a key for the token", async () => {
    const key = s.newKey("admin");
    const headers = { authorization: `Bearer ${key}` };
    const who = await (await fetch(`${s.url}/api/v1/auth/whoami`, { headers })).json();
    expect(who).to.have.nested.property("data.tenant_id", "acme");
    const exchange = await fetch(`${s.url}/api/v1/auth/token`, { method: "POST", headers });
    const { data } = z.object({ data: routes.exchangeApiKey.reply }).parse(await exchange.json());
    expect(await send(s, routes.whoami, data.access_token)).to.deep.equal({ status: 200, code: "none" });
    expect(s.exchanged.length).to.be.above(0);
  });
});

describe("shadow mode", function () {
  this.timeout(60_000);

  it("lets bad and missing tokens through as a member of the shadow tenant, and never further", async () => {
    const s = await setup({ env: { AUTH_MODE: "shadow" } });
    try {
      const seen: unknown[] = [];
      for (const bearer of [undefined, "garbage", await s.issuer.token("owner", { expiresInSeconds: -60 })]) {
        const headers: Record<string, string> =
          bearer === undefined ? {} : { authorization: `Bearer ${bearer}` };
        const who: unknown = await (await fetch(`${s.url}/api/v1/auth/whoami`, { headers })).json();
        seen.push(z.object({ data: z.object({ tenant_id: z.string() }) }).parse(who).data.tenant_id);
        expect(await send(s, routes.runSweep, bearer)).to.deep.equal({ status: 403, code: "FORBIDDEN" });
      }
      expect(seen).to.deep.equal(["shadow-tenant", "shadow-tenant", "shadow-tenant"]);
    } finally {
      await s.close();
    }
  });
});

describe("a gateway in shadow mode before owners that enforce", function () {
  this.timeout(60_000);

  it("gets nothing done for a shadow, and says that the modes differ", async () => {
    const s = await setup({ env: { AUTH_MODE: "shadow" }, peersMode: "enforced" });
    try {
      const { contexts } = await serveVmOps(s, new Map());
      const params = { id: "0190a8f0-0000-7000-8000-000000000001" };
      const path = routes.getCommand.path.replace("{id}", params.id);
      const response = await fetch(`${s.url}${path}`);
      expect(response.status).to.equal(401);
      expect(failure.parse(await response.json()).error.code).to.equal("MISSING_BEARER_TOKEN");
      expect(contexts).to.deep.equal([]);
      const text = await s.metrics.registry.getSingleMetricAsString("muster_auth_mode_mismatch_total");
      expect(text).to.include('{owner="vm-ops",service="gateway"} 1');
    } finally {
      await s.close();
    }
  });
});

describe("without auth", function () {
  this.timeout(60_000);

  it("a key is answered 503 with a time to retry, never 401", async () => {
    const s = await setup({ serveAuth: false, env: { MUSTER_GATEWAY_AUTH_TIMEOUT_MS: "200" } });
    try {
      for (const bearer of [s.newKey("owner"), await s.issuer.token("owner")]) {
        const headers = { authorization: `Bearer ${bearer}` };
        const response = await fetch(`${s.url}/api/v1/auth/whoami`, { headers });
        expect(response.status).to.equal(503);
        expect(Number(response.headers.get("retry-after"))).to.be.at.least(1);
        expect(failure.parse(await response.json()).error.code).to.equal("DEPENDENCY_UNAVAILABLE");
      }
    } finally {
      await s.close();
    }
  });
});
