import { createHash, randomBytes } from "node:crypto";
import { authRequests } from "@muster/contracts/auth";
import type { RequestHandlers } from "@muster/broker/broker";
import { MusterError, wireError } from "@muster/contracts/errors";
import type { ErrorCode } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import { routes } from "@muster/contracts/routes";
import { expect } from "chai";
import { z } from "zod";
import { setup } from "./setup.ts";
import type { Bundle } from "./setup.ts";

const { exchangeApiKey, getKeys, registerMeshKey, issueToken, refreshToken, exchangeToken, revokeToken } =
  authRequests;
const { listTokenRevocations } = authRequests;
const asked = {
  ...{ exchangeApiKey, getKeys, registerMeshKey, issueToken, refreshToken, exchangeToken, revokeToken },
  listTokenRevocations,
};
const sha256 = (text: string) => createHash("sha256").update(text).digest("hex");
const secretOf = () => randomBytes(32).toString("base64url");
const newKey = () => `mk_abcdefghij_${secretOf()}`;
const basic = (user: string, password: string) => ({
  authorization: `Basic ${Buffer.from(`${user}:${password}`).toString("base64")}`,
});
const asForm = (body: Record<string, string>) => ({
  body: new URLSearchParams(body).toString(),
  headers: { "content-type": "application/x-www-form-urlencoded" },
});
const asJson = (body: object) => ({
  body: JSON.stringify(body),
  headers: { "content-type": "application/json" },
});
type Sent = { body: string; headers: Record<string, string> };

const answer = z.object({ data: routes.exchangeApiKey.reply });
const failure = z.object({ success: z.literal(false), error: wireError });

/** An auth that says yes to all and keeps what it was asked; or says `refusal`. */
async function serveAuth(s: Bundle) {
  const seen: Record<string, unknown>[] = [];
  const exchanged: Record<string, unknown>[] = [];
  const state: { refusal: ErrorCode | undefined } = { refusal: undefined };
  const principal = { tenant_id: "acme", subject: "user:test", roles: ["member" as const], permissions: [] };
  const granted = async (payload: Record<string, unknown>) => {
    seen.push(payload);
    if (state.refusal !== undefined) throw new MusterError(state.refusal);
    return {
      access_token: await s.issuer.token("member"),
      expires_in_seconds: 600,
      principal,
      scope: "member offline_access",
      refresh_token: `mr_${secretOf()}`,
      refresh_expires_at: "2030-01-01T00:00:00.000Z",
    };
  };
  const handlers: RequestHandlers<typeof asked> = {
    exchangeApiKey: (items) =>
      Promise.all(
        items.map(async ({ payload }) => {
          exchanged.push(payload);
          return { access_token: await s.issuer.token("member"), expires_in_seconds: 600, principal };
        }),
      ),
    getKeys: () => Promise.resolve({ keys: s.issuer.keys }),
    registerMeshKey: s.meshKeys.handler,
    listTokenRevocations: () => Promise.resolve({ items: [], next_cursor: null }),
    issueToken: granted,
    refreshToken: granted,
    exchangeToken: async (payload) => ({
      ...(await granted(payload)),
      refresh_token: null,
      refresh_expires_at: null,
    }),
    async revokeToken(payload) {
      seen.push(payload);
      return {};
    },
  };
  await s.peers.auth.serve("auth", asked, handlers);
  return { seen, exchanged, state };
}

describe("the token route", function () {
  this.timeout(60_000);
  let s: Bundle;
  let auth: Awaited<ReturnType<typeof serveAuth>>;
  before(async () => {
    s = await setup({ serveAuth: false });
    auth = await serveAuth(s);
  });
  after(() => s.close());
  beforeEach(() => {
    auth.seen.length = 0;
    auth.state.refusal = undefined;
  });

  const post = (path: string, { body, headers }: Sent, more: Record<string, string> = {}) =>
    fetch(`${s.url}/api/v1/auth/${path}`, { method: "POST", body, headers: { ...headers, ...more } });
  const refusalOf = async (response: Response) => {
    const { error } = failure.parse(await response.json());
    return {
      status: response.status,
      code: error.code,
      paths: (error.details ?? []).map(({ path }) => path),
    };
  };

  it("takes client credentials by Basic or in the body, as form or JSON, and sends no secret on", async () => {
    const [client_id, client_secret] = [uuidv7(), newKey()];
    const grant_type = "client_credentials";
    const scope = "member offline_access";
    const ways: [Sent, Record<string, string>][] = [
      [asForm({ grant_type, scope }), basic(client_id, client_secret)],
      [asJson({ grant_type, scope }), basic(client_id, client_secret)],
      [asForm({ grant_type, scope, client_id, client_secret }), {}],
      [asJson({ grant_type, scope, client_id, client_secret }), {}],
    ];
    for (const [sent, headers] of ways) {
      const response = await post("token", sent, headers);
      expect(response.status).to.equal(200);
      expect(response.headers.get("cache-control")).to.equal("no-store");
      const { data } = answer.parse(await response.json());
      expect(data).to.include({
        token_type: "Bearer",
        scope,
        refresh_expires_at: "2030-01-01T00:00:00.000Z",
      });
      expect(data.refresh_token).to.match(/^mr_/);
    }
    const presented = { prefix: "abcdefghij", key_sha256: sha256(client_secret), client_id, scope };
    const payload = { ...presented, client_address: "127.0.0.1" };
    expect(auth.seen).to.deep.equal([payload, payload, payload, payload]);
  });

  it("takes an API key as the bearer with a scope, and without any body as ever", async () => {
    const key = newKey();
    const headers = { authorization: `Bearer ${key}` };
    const plain = await fetch(`${s.url}/api/v1/auth/token`, { method: "POST", headers });
    const { data } = answer.parse(await plain.json());
    expect(Object.keys(data)).to.have.members([
      "access_token",
      "token_type",
      "expires_in_seconds",
      "principal",
    ]);
    expect(auth.seen).to.deep.equal([]);
    const scoped = await post("token", asForm({ scope: "offline_access" }), headers);
    expect(answer.parse(await scoped.json()).data.refresh_token).to.match(/^mr_/);
    expect(auth.seen).to.deep.equal([
      { prefix: "abcdefghij", key_sha256: sha256(key), scope: "offline_access", client_address: "127.0.0.1" },
    ]);
  });

  it("takes an outside issuer's token in exchange, and passes it on as it is", async () => {
    const grant_type = "urn:ietf:params:oauth:grant-type:token-exchange";
    const subject_token = `${"a".repeat(9_000)}.b_-1.c`;
    const subject_token_type = "urn:ietf:params:oauth:token-type:id_token";
    const accessToken = "urn:ietf:params:oauth:token-type:access_token";
    const least = { grant_type, subject_token, subject_token_type };
    const most = { ...least, audience: "acme", scope: "member", requested_token_type: accessToken };
    for (const sent of [asForm(least), asJson(least), asForm(most), asJson(most)]) {
      const response = await post("token", sent);
      expect(response.status).to.equal(200);
      expect(response.headers.get("cache-control")).to.equal("no-store");
      const { data } = answer.parse(await response.json());
      expect(data).to.include({ token_type: "Bearer", issued_token_type: accessToken });
      expect(data).to.not.have.any.keys("refresh_token", "refresh_expires_at");
    }
    const payload = { subject_token, subject_token_type, client_address: "127.0.0.1" };
    const whole = { ...payload, tenant_id: "acme", scope: "member" };
    expect(auth.seen).to.deep.equal([payload, payload, whole, whole]);
    auth.seen.length = 0;
    const refused: [object, string, string?][] = [
      [{ ...least, subject_token: "garbage" }, "INVALID_GRANT"],
      [{ ...least, subject_token: `${subject_token}=` }, "INVALID_GRANT"],
      [{ ...least, subject_token: "a".repeat(16_385) }, "VALIDATION_FAILED", "body.subject_token"],
      [{ grant_type, subject_token }, "VALIDATION_FAILED", "body.subject_token_type"],
      [{ grant_type, subject_token_type }, "VALIDATION_FAILED", "body.subject_token"],
      [{ ...least, subject_token_type: "urn:ietf:params:oauth:token-type:saml2" }, "VALIDATION_FAILED"],
      [{ ...least, requested_token_type: subject_token_type }, "VALIDATION_FAILED"],
      [{ ...least, actor_token: subject_token }, "VALIDATION_FAILED", "body.actor_token"],
      [{ ...least, refresh_token: "mr_" }, "VALIDATION_FAILED", "body.refresh_token"],
      [{ grant_type: "client_credentials", subject_token }, "VALIDATION_FAILED", "body.subject_token"],
    ];
    for (const [body, code, path] of refused) {
      const found = await refusalOf(await post("token", asJson(body)));
      expect(found, JSON.stringify(body).slice(0, 100)).to.deep.include({ status: 400, code });
      if (path !== undefined) expect(found.paths).to.include(path);
    }
    expect(auth.seen).to.deep.equal([]);
    const told = [
      ["INVALID_GRANT", 400, "INVALID_GRANT"],
      ["DEPENDENCY_UNAVAILABLE", 503, "DEPENDENCY_UNAVAILABLE"],
    ] as const;
    for (const [refusal, status, code] of told) {
      auth.state.refusal = refusal;
      expect(await refusalOf(await post("token", asForm(least)))).to.deep.include({ status, code });
    }
  });

  it("names a refresh by its Idempotency-Key, or else anew each time", async () => {
    const refresh_token = `mr_${secretOf()}`;
    const sent = asForm({ grant_type: "refresh_token", refresh_token });
    const named = { "idempotency-key": "again" };
    for (const headers of [named, named, {}, {}]) {
      expect((await post("token", sent, headers)).status).to.equal(200);
    }
    const keys = auth.seen.map(({ request_key }) => request_key);
    expect(keys.slice(0, 2)).to.deep.equal(["again", "again"]);
    expect(new Set(keys)).to.have.length(3);
    for (const one of auth.seen) expect(one).to.include({ token_sha256: sha256(refresh_token) });
    expect(JSON.stringify(auth.seen)).to.not.include(refresh_token);
  });

  it("refuses what can be no credential without asking, and what is refused by its code", async () => {
    const [client_id, client_secret] = [uuidv7(), newKey()];
    const [credentials, refresh] = [{ grant_type: "client_credentials" }, { grant_type: "refresh_token" }];
    const cells: [Sent, Record<string, string>, number, string, string?][] = [
      [asForm(credentials), {}, 401, "INVALID_CLIENT"],
      [asForm(credentials), { authorization: `Bearer ${client_secret}` }, 401, "INVALID_CLIENT"],
      [asForm(credentials), basic("robot", client_secret), 401, "INVALID_CLIENT"],
      [asForm(credentials), basic(client_id, "garbage"), 401, "INVALID_CLIENT"],
      [asForm(credentials), { authorization: "Basic !" }, 401, "INVALID_CLIENT"],
      [asForm({ ...credentials, client_id }), {}, 401, "INVALID_CLIENT"],
      [
        asForm({ ...credentials, client_id, client_secret }),
        basic(client_id, client_secret),
        400,
        "VALIDATION_FAILED",
        "header.authorization",
      ],
      [
        asForm({ ...credentials, client_id: "robot", client_secret }),
        {},
        400,
        "VALIDATION_FAILED",
        "body.client_id",
      ],
      [asForm({ ...refresh, refresh_token: "garbage" }), {}, 400, "INVALID_GRANT"],
      [
        asForm({ ...refresh, refresh_token: await s.issuer.token("owner") }),
        {},
        400,
        "VALIDATION_FAILED",
        "body.refresh_token",
      ],
      [asForm(refresh), {}, 400, "VALIDATION_FAILED", "body.refresh_token"],
      [
        asForm({ ...refresh, refresh_token: `mr_${secretOf()}`, client_id }),
        {},
        400,
        "VALIDATION_FAILED",
        "body.client_id",
      ],
      [asForm({ grant_type: "password", scope: "owner" }), {}, 400, "VALIDATION_FAILED", "body.grant_type"],
      [asForm({ client_id, client_secret }), {}, 400, "VALIDATION_FAILED", "body.client_id"],
      [
        asJson({ ...credentials, client_secret: [client_secret] }),
        {},
        400,
        "VALIDATION_FAILED",
        "body.client_secret",
      ],
      [asForm({ scope: "OWNER; drop" }), {}, 400, "VALIDATION_FAILED", "body.scope"],
      [asForm({ scope: "owner" }), {}, 401, "MISSING_BEARER_TOKEN"],
      [asForm({ scope: "owner" }), basic(client_id, client_secret), 401, "INVALID_OR_MISSING_BEARER_TOKEN"],
      [
        asForm({ scope: "owner" }),
        { authorization: `Bearer ${await s.issuer.token("owner")}` },
        401,
        "INVALID_OR_MISSING_BEARER_TOKEN",
      ],
    ];
    for (const [sent, headers, status, code, path] of cells) {
      const refused = await refusalOf(await post("token", sent, headers));
      expect(refused, sent.body).to.deep.include({ status, code });
      if (path !== undefined) expect(refused.paths, sent.body).to.include(path);
    }
    expect(auth.seen).to.deep.equal([]);
  });

  it("passes auth's refusals on as they are, with the scheme to use, and says 503 where auth fails", async () => {
    const byClient = [asForm({ grant_type: "client_credentials" }), basic(uuidv7(), newKey())] as const;
    const byRefresh = [
      asForm({ grant_type: "refresh_token", refresh_token: `mr_${secretOf()}` }),
      {},
    ] as const;
    const told = [
      [byClient, "INVALID_CLIENT", 401, "INVALID_CLIENT"],
      [byClient, "INVALID_SCOPE", 400, "INVALID_SCOPE"],
      [byRefresh, "INVALID_GRANT", 400, "INVALID_GRANT"],
      [byRefresh, "RATE_LIMITED", 429, "RATE_LIMITED"],
      [byRefresh, "INTERNAL", 503, "DEPENDENCY_UNAVAILABLE"],
    ] as const;
    for (const [[sent, headers], refusal, status, code] of told) {
      auth.state.refusal = refusal;
      const response = await post("token", sent, headers);
      const scheme = response.headers.get("www-authenticate");
      expect(scheme).to.equal(status === 401 ? 'Basic realm="muster"' : null);
      const waits = status === 429 || status === 503;
      expect(Number(response.headers.get("retry-after")) >= 1, refusal).to.equal(waits);
      expect(await refusalOf(response)).to.deep.include({ status, code });
    }
  });

  it("revokes whatever it is given, and answers all alike", async () => {
    const token = `mr_${secretOf()}`;
    const given = [token, "garbage", await s.issuer.token("owner")];
    for (const one of given) {
      for (const sent of [asForm({ token: one, token_type_hint: "refresh_token" }), asJson({ token: one })]) {
        const response = await post("revoke", sent);
        expect([response.status, await response.json()]).to.deep.equal([200, { success: true, data: {} }]);
      }
    }
    const asked = { token_sha256: sha256(token), client_address: "127.0.0.1" };
    expect(auth.seen).to.deep.equal([asked, asked]);
    expect(await refusalOf(await post("revoke", asForm({})))).to.deep.include({
      status: 400,
      code: "VALIDATION_FAILED",
      paths: ["body.token"],
    });
  });
});

describe("the address that auth counts", function () {
  this.timeout(60_000);

  const addressesOf = async (proxies: string | undefined) => {
    const env = proxies === undefined ? {} : { MUSTER_GATEWAY_TRUSTED_PROXIES: proxies };
    const s = await setup({ serveAuth: false, env });
    const { seen, exchanged } = await serveAuth(s);
    const headers = { ...asJson({}).headers, "x-forwarded-for": "203.0.113.9, 2001:db8::9" };
    const token = `mr_${secretOf()}`;
    const sent = [
      ["token", { grant_type: "client_credentials", client_id: uuidv7(), client_secret: newKey() }],
      ["token", { grant_type: "refresh_token", refresh_token: token }],
      ["revoke", { token }],
    ] as const;
    for (const [path, body] of sent) {
      await fetch(`${s.url}/api/v1/auth/${path}`, { method: "POST", headers, body: JSON.stringify(body) });
    }
    const authorization = `Bearer ${newKey()}`;
    await fetch(`${s.url}/api/v1/auth/whoami`, { headers: { ...headers, authorization } });
    await s.close();
    return [...seen, ...exchanged].map(({ client_address }) => client_address);
  };

  it("is the connection's: what a client writes into X-Forwarded-For is ignored", async () => {
    for (const proxies of [undefined, "10.0.0.0/8, fd00::/8"]) {
      const own = ["127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.1"];
      expect(await addressesOf(proxies), proxies).to.deep.equal(own);
    }
  });

  it("is whom a trusted proxy names", async () => {
    const named = ["2001:db8::9", "2001:db8::9", "2001:db8::9", "2001:db8::9"];
    expect(await addressesOf("127.0.0.0/8")).to.deep.equal(named);
  });
});
