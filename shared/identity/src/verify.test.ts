import { MusterError } from "@muster/contracts/errors";
import { openLogger } from "@muster/telemetry/logger";
import { createMetrics } from "@muster/telemetry/metrics";
import { expect } from "chai";
import { createHmac, randomUUID } from "node:crypto";
import { exportJWK, exportSPKI, generateKeyPair, SignJWT } from "jose";
import type { CryptoKey, JSONWebKeySet } from "jose";
import { openVerifier } from "./verify.ts";
import type { VerifierOptions } from "./verify.ts";

const startMs = Date.UTC(2030, 0, 1);
const seconds = (ms: number) => Math.floor(ms / 1_000);

async function keyPair(kid: string, alg: "EdDSA" | "ES256" = "ES256") {
  const { publicKey, privateKey } = await generateKeyPair(alg, { extractable: true });
  return { kid, alg, publicKey, privateKey, jwk: { ...(await exportJWK(publicKey)), kid, alg, use: "sig" } };
}
type Pair = Awaited<ReturnType<typeof keyPair>>;

interface Changes {
  readonly claims?: Readonly<Record<string, unknown>>;
  readonly header?: Readonly<Record<string, unknown>>;
  readonly key?: CryptoKey;
}

async function setup(o: Partial<VerifierOptions> = {}) {
  const pair = await keyPair("k1");
  const clock = { nowMs: startMs };
  const issuer = { keys: [pair.jwk] as JSONWebKeySet["keys"], fetches: 0, failing: false };
  const metrics = createMetrics({ service: "test" });
  const verifier = openVerifier({
    fetchKeys: async () => {
      issuer.fetches += 1;
      await Promise.resolve();
      if (issuer.failing) throw new Error("no answer");
      return { keys: issuer.keys };
    },
    mode: "enforced",
    shadowTenantId: "shadow-tenant",
    metrics,
    logger: openLogger({ service: "test", level: "silent" }),
    now: () => clock.nowMs,
    ...o,
  });
  const tokenOf = (changes: Changes = {}, from: Pair = pair) => {
    const now = seconds(clock.nowMs);
    const claims = {
      iss: "https://auth.muster",
      aud: "muster",
      sub: "user:0190aaaa",
      jti: randomUUID(),
      iat: now,
      exp: now + 600,
      tenant_id: "acme",
      roles: ["admin"],
      permissions: ["approvals.review.prod"],
      ...changes.claims,
    };
    const header = { alg: from.alg, kid: from.kid, typ: "at+jwt", ...changes.header };
    const signed = new SignJWT(JSON.parse(JSON.stringify(claims)) as Record<string, unknown>);
    return signed.setProtectedHeader(header).sign(changes.key ?? from.privateKey);
  };
  return { pair, clock, issuer, metrics, verifier, tokenOf };
}

async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
  } catch (error) {
    if (error instanceof MusterError) return error.code;
    throw error;
  }
  return "accepted";
}

/** Lets the event loop turn until it holds; the test's own time is the limit. */
async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setImmediate(resolve));
  for (let i = 0; i < 20; i++) await Promise.resolve();
}

const invalid = "INVALID_OR_MISSING_BEARER_TOKEN";
const encode = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url");

describe("the verifier of access tokens", () => {
  it("tells who holds a good token, ES256 or EdDSA", async () => {
    const { verifier, tokenOf, issuer } = await setup();
    const edwards = await keyPair("k2", "EdDSA");
    issuer.keys.push(edwards.jwk);
    for (const token of [await tokenOf(), await tokenOf({}, edwards)]) {
      expect(await verifier.verify(token)).to.deep.equal({
        tenant_id: "acme",
        subject: "user:0190aaaa",
        roles: ["admin"],
        permissions: ["approvals.review.prod"],
      });
    }
  });

  it("tells a missing token from a bad one, and counts each by code", async () => {
    const { verifier, metrics } = await setup();
    expect(await codeOf(verifier.verify(undefined))).to.equal("MISSING_BEARER_TOKEN");
    expect(await codeOf(verifier.verify("garbage"))).to.equal(invalid);
    const text = await metrics.registry.metrics();
    expect(text).to.match(/muster_auth_failures_total\{code="MISSING_BEARER_TOKEN".*\} 1/);
    expect(text).to.match(/muster_auth_failures_total\{code="INVALID_OR_MISSING_BEARER_TOKEN".*\} 1/);
  });

  const wrongClaims: Record<string, Record<string, unknown>> = {
    "an expired token": { exp: seconds(startMs) - 6 },
    "a token that is not valid yet": { nbf: seconds(startMs) + 6 },
    "another audience": { aud: "elsewhere" },
    "another issuer": { iss: "https://auth.elsewhere" },
    "a token without a tenant": { tenant_id: undefined },
    "an empty tenant": { tenant_id: "" },
    "a tenant with a dot": { tenant_id: "acme.other" },
    "a tenant that is a list": { tenant_id: ["acme"] },
    "no subject": { sub: undefined },
    "no id": { jti: undefined },
    "no expiry": { exp: undefined },
    "no time of issue": { iat: undefined },
    "an unknown role": { roles: ["root"] },
    "roles that are text": { roles: "owner" },
  };
  for (const [what, claims] of Object.entries(wrongClaims)) {
    it(`refuses ${what}`, async () => {
      const { verifier, tokenOf } = await setup();
      expect(await codeOf(verifier.verify(await tokenOf({ claims })))).to.equal(invalid);
    });
  }

  const wrongHeaders: Record<string, Record<string, unknown>> = {
    "the type JWT": { typ: "JWT" },
    "no type": { typ: undefined },
    "the type of another kind of token": { typ: "approval+jwt" },
    "no kid": { kid: undefined },
    "an unknown kid": { kid: "k9" },
    "a kid that is a path": { kid: "../../etc/passwd" },
    "an empty kid": { kid: "" },
  };
  for (const [what, header] of Object.entries(wrongHeaders)) {
    it(`refuses ${what}`, async () => {
      const { verifier, tokenOf } = await setup();
      expect(await codeOf(verifier.verify(await tokenOf({ header })))).to.equal(invalid);
    });
  }

  it("refuses alg none, in every spelling, with and without a signature", async () => {
    const { verifier, tokenOf } = await setup();
    const [, payload, signature] = (await tokenOf()).split(".");
    for (const alg of ["none", "None", "NONE", "nOnE", ""]) {
      const header = encode({ alg, kid: "k1", typ: "at+jwt" });
      for (const end of ["", signature]) {
        expect(await codeOf(verifier.verify(`${header}.${payload}.${end}`)), alg).to.equal(invalid);
      }
    }
  });

  it("refuses HMAC keyed with the public key, and algorithms off the list", async () => {
    const { verifier, tokenOf, pair } = await setup();
    const [, payload] = (await tokenOf()).split(".");
    for (const secret of [await exportSPKI(pair.publicKey), JSON.stringify(pair.jwk)]) {
      const signed = `${encode({ alg: "HS256", kid: "k1", typ: "at+jwt" })}.${payload}`;
      const mac = createHmac("sha256", secret).update(signed).digest("base64url");
      expect(await codeOf(verifier.verify(`${signed}.${mac}`))).to.equal(invalid);
    }
    const { privateKey } = await generateKeyPair("RS256");
    const rsa = await tokenOf({ header: { alg: "RS256" }, key: privateKey });
    expect(await codeOf(verifier.verify(rsa))).to.equal(invalid);
  });

  it("never takes a key from the token: jwk, jku, x5u, x5c", async () => {
    const { verifier, tokenOf, issuer } = await setup();
    const mallory = await keyPair("k1");
    const injections = [
      { jwk: mallory.jwk },
      { jku: "https://evil.example/jwks.json" },
      { x5u: "https://evil.example/cert.pem" },
      { x5c: ["AAAA"] },
      {},
    ];
    for (const header of injections) {
      const forged = await tokenOf({ header, key: mallory.privateKey });
      expect(await codeOf(verifier.verify(forged))).to.equal(invalid);
      if (Object.keys(header).length === 0) continue;
      expect(await codeOf(verifier.verify(await tokenOf({ header }))), "by the true key").to.equal(invalid);
    }
    expect(issuer.fetches).to.equal(1);
  });

  it("refuses a payload or a header that was changed after signing", async () => {
    const { verifier, tokenOf } = await setup();
    const [header, payload, signature] = (await tokenOf()).split(".");
    const claims = JSON.parse(Buffer.from(payload!, "base64url").toString()) as object;
    const tampered = encode({ ...claims, tenant_id: "other" });
    expect(await codeOf(verifier.verify(`${header}.${tampered}.${signature}`))).to.equal(invalid);
    const spaced = Buffer.from(`{"alg":"ES256", "kid":"k1","typ":"at+jwt"}`).toString("base64url");
    expect(await codeOf(verifier.verify(`${spaced}.${payload}.${signature}`))).to.equal(invalid);
  });

  it("refuses whatever is not one compact JWS", async () => {
    const { verifier, tokenOf } = await setup();
    const good = await tokenOf();
    const [header, payload, signature] = good.split(".");
    const flattened = JSON.stringify({ protected: header, payload, signature });
    const odd = ["", " ", "a.b", "...", `${good}.x`, `${good}=`, `${good}\n`, ` ${good}`, flattened, "é.é.é"];
    for (const text of [...odd, `${header}.${payload}`, `${good}.${good}`, "a".repeat(10_000)]) {
      expect(await codeOf(verifier.verify(text)), text).to.not.equal("accepted");
    }
  });

  it("allows clocks to differ by five seconds and no more", async () => {
    const { verifier, tokenOf } = await setup();
    const late = { claims: { exp: seconds(startMs) - 3 } };
    expect(await codeOf(verifier.verify(await tokenOf(late)))).to.equal("accepted");
  });
});

describe("verified tokens", () => {
  it("are not accepted beyond their expiry, though known", async () => {
    const { verifier, tokenOf, clock } = await setup({ keysMaxAgeMs: 3_600_000 });
    const token = await tokenOf({ claims: { exp: seconds(startMs) + 60 } });
    expect(await codeOf(verifier.verify(token))).to.equal("accepted");
    clock.nowMs += 66_000;
    expect(await codeOf(verifier.verify(token))).to.equal(invalid);
  });

  it("are looked at again when the issuer's keys have changed", async () => {
    const { verifier, tokenOf, issuer } = await setup();
    const token = await tokenOf();
    expect(await codeOf(verifier.verify(token))).to.equal("accepted");
    issuer.keys = [(await keyPair("k2")).jwk];
    verifier.keysChanged();
    await until(() => issuer.fetches === 2);
    expect(await codeOf(verifier.verify(token))).to.equal(invalid);
  });

  it("are refused at once when their key is revoked, though no new set is to be had", async () => {
    const { verifier, tokenOf, issuer } = await setup();
    const [known, fresh] = [await tokenOf(), await tokenOf()];
    expect(await codeOf(verifier.verify(known))).to.equal("accepted");
    issuer.failing = true;
    verifier.keysChanged(["k1"]);
    for (const token of [known, fresh]) expect(await codeOf(verifier.verify(token))).to.equal(invalid);
    await verifier.close();
  });

  it("are not kept when their key is revoked while they are verified", async () => {
    const { verifier, tokenOf, issuer } = await setup();
    await verifier.verify(await tokenOf());
    const token = await tokenOf();
    const pending = codeOf(verifier.verify(token));
    // The key is found; its signature is being computed in another thread.
    for (let i = 0; i < 20; i++) await Promise.resolve();
    issuer.keys = [];
    verifier.keysChanged(["k1"]);
    expect(await pending).to.equal("accepted");
    expect(await codeOf(verifier.verify(token))).to.equal(invalid);
  });
});

describe("the issuer's keys", () => {
  it("are fetched once for any number of tokens at once", async () => {
    const { verifier, tokenOf, issuer } = await setup();
    const tokens = await Promise.all(Array.from({ length: 20 }, () => tokenOf()));
    await Promise.all(tokens.map((token) => verifier.verify(token)));
    expect(issuer.fetches).to.equal(1);
  });

  it("are fetched again for an unknown kid, but once within the cooldown", async () => {
    const { verifier, tokenOf, issuer, clock } = await setup();
    await verifier.verify(await tokenOf());
    const published = async (kid: string) => {
      const pair = await keyPair(kid);
      issuer.keys = [...issuer.keys, pair.jwk];
      return await tokenOf({}, pair);
    };
    expect(await codeOf(verifier.verify(await published("k2")))).to.equal("accepted");
    expect(issuer.fetches).to.equal(2);
    const token = await published("k3");
    for (let i = 0; i < 10; i++) expect(await codeOf(verifier.verify(token))).to.equal(invalid);
    expect(issuer.fetches).to.equal(2);
    clock.nowMs += 30_000;
    expect(await codeOf(verifier.verify(token))).to.equal("accepted");
    expect(issuer.fetches).to.equal(3);
  });

  it("say nothing about an unknown kid while they cannot be fetched, and are asked for no more than twice a second", async () => {
    const { verifier, tokenOf, issuer, clock } = await setup();
    await verifier.verify(await tokenOf());
    const rotated = await keyPair("k2");
    issuer.keys = [...issuer.keys, rotated.jwk];
    issuer.failing = true;
    const token = await tokenOf({}, rotated);
    for (let i = 0; i < 10; i++) {
      expect(await codeOf(verifier.verify(token))).to.equal("DEPENDENCY_UNAVAILABLE");
    }
    expect(issuer.fetches).to.equal(2);
    issuer.failing = false;
    clock.nowMs += 500;
    expect(await codeOf(verifier.verify(token))).to.equal("accepted");
  });

  it("are fetched anew for a change, after what is under way, which brings back no revoked key", async () => {
    const old = await keyPair("old");
    const rotated = await keyPair("new");
    const answers: ((set: JSONWebKeySet) => void)[] = [];
    const fetchKeys = () => new Promise<JSONWebKeySet>((resolve) => answers.push(resolve));
    const { verifier, tokenOf } = await setup({ fetchKeys });
    const waiting = codeOf(verifier.verify(await tokenOf({}, old)));
    await until(() => answers.length === 1);
    verifier.keysChanged(["old"]);
    answers[0]?.({ keys: [old.jwk] });
    expect(await waiting).to.equal(invalid);
    await until(() => answers.length === 2);
    answers[1]?.({ keys: [old.jwk, rotated.jwk] });
    expect(await codeOf(verifier.verify(await tokenOf({}, rotated)))).to.equal("accepted");
    expect(await codeOf(verifier.verify(await tokenOf({}, old)))).to.equal(invalid);
    expect(answers).to.have.length(2);
  });

  it("are asked for after a change until they come", async () => {
    const { verifier, tokenOf, issuer } = await setup();
    await verifier.verify(await tokenOf());
    issuer.failing = true;
    verifier.keysChanged();
    await until(() => issuer.fetches === 3);
    issuer.failing = false;
    await until(() => issuer.fetches === 4);
    await verifier.close();
  });

  it("serve on while the issuer does not answer, for an hour and not longer", async () => {
    const { verifier, tokenOf, issuer, clock } = await setup();
    await verifier.verify(await tokenOf());
    issuer.failing = true;
    clock.nowMs += 59 * 60_000;
    expect(await codeOf(verifier.verify(await tokenOf()))).to.equal("accepted");
    clock.nowMs += 2 * 60_000;
    expect(await codeOf(verifier.verify(await tokenOf()))).to.equal("DEPENDENCY_UNAVAILABLE");
  });

  it("that were never had are no fault of the token: 503, then accepted once they come", async () => {
    const { verifier, tokenOf, issuer, clock } = await setup();
    issuer.failing = true;
    const token = await tokenOf();
    expect(await codeOf(verifier.verify(token))).to.equal("DEPENDENCY_UNAVAILABLE");
    issuer.failing = false;
    clock.nowMs += 500;
    expect(await codeOf(verifier.verify(token))).to.equal("accepted");
  });
});

describe("shadow mode", () => {
  it("lets bad and missing tokens through as the shadow tenant only, and counts them", async () => {
    const { verifier, tokenOf, metrics } = await setup({ mode: "shadow" });
    const bad = [undefined, "garbage", await tokenOf({ claims: { tenant_id: undefined } })];
    for (const token of bad) {
      const principal = await verifier.verify(token);
      expect(principal).to.deep.equal({
        tenant_id: "shadow-tenant",
        subject: "shadow",
        roles: ["member"],
        permissions: [],
      });
    }
    const text = await metrics.registry.metrics();
    expect(text).to.match(/muster_auth_shadow_total\{code="MISSING_BEARER_TOKEN".*\} 1/);
    expect(text).to.match(/muster_auth_shadow_total\{code="INVALID_OR_MISSING_BEARER_TOKEN".*\} 2/);
  });

  it("keeps good tokens in their own tenant", async () => {
    const { verifier, tokenOf } = await setup({ mode: "shadow" });
    expect((await verifier.verify(await tokenOf())).tenant_id).to.equal("acme");
  });

  it("does not guess when the keys cannot be had", async () => {
    const { verifier, tokenOf, issuer } = await setup({ mode: "shadow" });
    issuer.failing = true;
    expect(await codeOf(verifier.verify(await tokenOf()))).to.equal("DEPENDENCY_UNAVAILABLE");
  });
});
