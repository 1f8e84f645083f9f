import { createHmac, generateKeyPairSync, KeyObject, sign } from "node:crypto";
import { MusterError } from "@muster/contracts/errors";
import { expect } from "chai";
import { CompactEncrypt, exportJWK, exportSPKI, generateKeyPair } from "jose";
import { setupExternal } from "./external.ts";
import type { External } from "./external.ts";
import { openOutside, outsideKey } from "./outside.ts";
import type { OutsideKey } from "./outside.ts";
import { codeOf } from "./setup.ts";

/** Makes tokens that must all be refused. */
type Attack = (s: External) => Promise<readonly string[]>;

const base64url = (part: unknown): string =>
  Buffer.from(typeof part === "string" ? part : JSON.stringify(part)).toString("base64url");
const headerOf = ({ alg, kid }: OutsideKey, more: object = {}) => ({ alg, kid, typ: "JWT", ...more });

/** A JWS over any header and payload, text or JSON, where a library would refuse to sign. */
function compact(header: unknown, payload: unknown, key: OutsideKey["privateKey"]): string {
  const text = `${base64url(header)}.${base64url(payload)}`;
  const digest = key.algorithm.name === "Ed25519" ? null : "sha256";
  const bytes = sign(digest, Buffer.from(text), { key: KeyObject.from(key), dsaEncoding: "ieee-p1363" });
  return `${text}.${bytes.toString("base64url")}`;
}

const withClaims =
  (...all: ((s: External) => Record<string, unknown>)[]): Attack =>
  (s) =>
    Promise.all(all.map((of) => s.token(of(s))));
const withHeaders =
  (...all: Record<string, unknown>[]): Attack =>
  async (s) =>
    all.map((more) => compact(headerOf(s.key, more), s.claims(), s.key.privateKey));

/** A header that names a key, by that key and, so that it is the header that is refused, by the true one. */
const withKey =
  (headersOf: (mallory: OutsideKey, s: External) => object): Attack =>
  async (s) => {
    const mallory = await outsideKey(s.key.kid, "ES256");
    const header = headerOf(s.key, headersOf(mallory, s));
    return [mallory, s.key].map(({ privateKey }) => compact(header, s.claims(), privateKey));
  };

const attacks: Record<string, Attack> = {
  "alg none, in every spelling, with and without a signature": async (s) => {
    const [, payload, signature] = (await s.token()).split(".");
    return ["none", "None", "NONE", ""].flatMap((alg) =>
      ["", signature].map((end) => `${base64url({ alg, kid: "k1", typ: "JWT" })}.${payload}.${end}`),
    );
  },
  "HMAC keyed with the public key, in every form of it": async (s) => {
    const raw = Buffer.from(`${s.key.jwk.x}${s.key.jwk.y}`, "base64url");
    const secrets = [await exportSPKI(s.key.publicKey), JSON.stringify(s.key.jwk), raw, ""];
    return secrets.flatMap((secret) =>
      ["256", "384", "512"].map((bits) => {
        const text = `${base64url(headerOf(s.key, { alg: `HS${bits}` }))}.${base64url(s.claims())}`;
        return `${text}.${createHmac(`sha${bits}`, secret).update(text).digest("base64url")}`;
      }),
    );
  },
  "an algorithm that the entry does not have, by a key that is published": async (s) => {
    const { jwk, ...key } = await outsideKey("p384", "ES384");
    const rsa = await outsideKey("ps", "PS256");
    s.outside.state.keys.push(jwk, rsa.jwk);
    return [await s.outside.sign({ jwk, ...key }, s.claims()), await s.outside.sign(rsa, s.claims())];
  },
  "an algorithm that is not its key's, or in another spelling": async (s) => {
    const edwards = await outsideKey("ed", "EdDSA");
    s.outside.state.keys.push(edwards.jwk);
    return [
      compact(headerOf(s.key, { alg: "EdDSA" }), s.claims(), s.key.privateKey),
      compact(headerOf(edwards, { alg: "ES256" }), s.claims(), edwards.privateKey),
      compact(headerOf(s.key, { alg: "es256" }), s.claims(), s.key.privateKey),
      compact(headerOf(s.key, { alg: ["ES256"] }), s.claims(), s.key.privateKey),
    ];
  },
  "a key in the header: jwk": withKey((mallory) => ({ jwk: mallory.jwk })),
  "a key by address: jku": withKey((_, s) => ({ jku: `${s.outside.issuer}/stray` })),
  "a certificate by address: x5u": withKey((_, s) => ({ x5u: `${s.outside.issuer}/stray` })),
  "a certificate in the header: x5c": withKey(() => ({ x5c: ["AAAA"] })),
  "another's key under a known kid": async (s) => [
    await s.outside.sign(await outsideKey(s.key.kid, "ES256"), s.claims()),
  ],
  "an unknown kid": async (s) => [await s.outside.sign(await outsideKey("k9", "ES256"), s.claims())],
  "a kid that is missing, empty, long or no text": withHeaders(
    { kid: undefined },
    { kid: "" },
    { kid: "k".repeat(257) },
    { kid: ["k1"] },
    { kid: "k1\n" },
  ),
  "a weak key: RSA of 1024 bits, and a point of small order": async (s) => {
    const { publicKey, privateKey } = generateKeyPairSync("rsa", { modulusLength: 1_024 });
    const identity = Buffer.from([1, ...new Array<number>(31).fill(0)]);
    s.outside.state.keys.push(
      { ...(await exportJWK(publicKey)), kid: "rsa", use: "sig" },
      { kty: "OKP", crv: "Ed25519", x: identity.toString("base64url"), kid: "weak", use: "sig" },
    );
    const rsa = `${base64url({ alg: "RS256", kid: "rsa" })}.${base64url(s.claims())}`;
    const point = `${base64url({ alg: "EdDSA", kid: "weak" })}.${base64url(s.claims())}`;
    return [
      `${rsa}.${sign("sha256", Buffer.from(rsa), privateKey).toString("base64url")}`,
      `${point}.${Buffer.concat([identity, Buffer.alloc(32)]).toString("base64url")}`,
    ];
  },
  "a private key that the set tells everybody, and one for encryption": async (s) => {
    const told = await outsideKey("told", "ES256");
    const other = await outsideKey("enc", "ES256");
    s.outside.state.keys.push(
      { ...told.jwk, ...(await exportJWK(told.privateKey)) },
      { ...other.jwk, use: "enc" },
    );
    return await Promise.all([told, other].map((key) => s.outside.sign(key, s.claims())));
  },
  "a payload or header that was changed after signing": async (s) => {
    const [header, payload, signature] = (await s.token()).split(".");
    const { alg, kid, typ } = headerOf(s.key);
    return [
      `${header}.${base64url(s.claims({ roles: ["boss"] }))}.${signature}`,
      `${base64url({ typ, kid, alg })}.${payload}.${signature}`,
    ];
  },
  "a signature that was cut, or has stray bits behind its end": async (s) => {
    const token = await s.token();
    const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    return [token.slice(0, -4), `${token.slice(0, -1)}${alphabet[alphabet.indexOf(token.at(-1)!) ^ 1]}`];
  },
  "crit, b64 or zip": withHeaders({ crit: ["exp"], exp: 1 }, { crit: ["b64"], b64: false }, { zip: "DEF" }),
  "the type of another kind of token": withHeaders(
    { typ: "logout+jwt" },
    { typ: "dpop+jwt" },
    { typ: "secevent+jwt" },
    { typ: ["JWT"] },
  ),
  "a member that stands twice, in payload or header": async (s) => {
    const [header, claims] = [JSON.stringify(headerOf(s.key)), JSON.stringify(s.claims())];
    const doubled = (json: string, member: string) => `{${member},${json.slice(1)}`;
    return [
      compact(header, doubled(claims, '"roles":["boss"]'), s.key.privateKey),
      compact(header, doubled(claims, '"\\u0073ub":"other"'), s.key.privateKey),
      compact(header, doubled(claims, '"x":{"a":1,"a":2}'), s.key.privateKey),
      compact(doubled(header, '"alg":"none"'), claims, s.key.privateKey),
    ];
  },
  "a payload that is no JSON object": async (s) =>
    ["null", "[]", '"text"', "{", "1", "\ufeff{}"].map((payload) =>
      compact(headerOf(s.key), payload, s.key.privateKey),
    ),
  "a token within a token, signed or encrypted": async (s) => {
    const encrypt = new CompactEncrypt(Buffer.from(JSON.stringify(s.claims())));
    encrypt.setProtectedHeader({ alg: "ECDH-ES", enc: "A256GCM", kid: "k1" });
    const encrypted = await encrypt.encrypt((await generateKeyPair("ECDH-ES")).publicKey);
    return [
      compact(headerOf(s.key, { cty: "JWT" }), await s.token(), s.key.privateKey),
      encrypted.split(".").slice(0, 3).join("."),
    ];
  },
  "another audience": withClaims(
    () => ({ aud: "elsewhere" }),
    () => ({ aud: undefined }),
    () => ({ aud: [] }),
    () => ({ aud: "Muster" }),
    () => ({ aud: ["mus", "ter"] }),
    () => ({ aud: { 0: "muster" } }),
    () => ({ aud: "muster\0" }),
  ),
  "another issuer": withClaims(
    (s) => ({ iss: `${s.outside.issuer}/` }),
    (s) => ({ iss: s.outside.issuer.toUpperCase() }),
    (s) => ({ iss: [s.outside.issuer] }),
    () => ({ iss: "https://auth.muster" }),
    () => ({ iss: undefined }),
    () => ({ iss: "\0" }),
  ),
  "an expired token": withClaims((s) => ({ exp: s.seconds() - 35, iat: s.seconds() - 600 })),
  "no expiry, or one that is no number": withClaims(
    () => ({ exp: undefined }),
    () => ({ exp: "9999999999" }),
    () => ({ exp: null }),
  ),
  "a token that is not valid yet, or from the future": withClaims(
    (s) => ({ nbf: s.seconds() + 60 }),
    () => ({ nbf: "0" }),
    (s) => ({ iat: s.seconds() + 60 }),
    () => ({ iat: 1e300 }),
  ),
  "no time of issue": withClaims(
    () => ({ iat: undefined }),
    () => ({ iat: "1" }),
    () => ({ iat: -1 }),
  ),
  "no subject, or one that is no text that can be kept": withClaims(
    () => ({ sub: undefined }),
    () => ({ sub: "" }),
    () => ({ sub: 7 }),
    () => ({ sub: "a\0b" }),
    () => ({ sub: "\ud800" }),
    () => ({ sub: "s".repeat(256) }),
  ),
  "no role that is mapped": withClaims(
    () => ({ roles: undefined }),
    () => ({ roles: [] }),
    () => ({ roles: "owner" }),
    () => ({ roles: ["Operator", " operator", ["operator"], { operator: true }] }),
    () => ({ roles: { 0: "operator" } }),
    () => ({ roles: null, "x.roles": ["operator"], realm_access: { roles: ["operator"] } }),
  ),
  "a token that is bound to a key": withClaims(() => ({ cnf: { jkt: "AAAA" } })),
};

describe("an attack with a token of an issuer outside", function () {
  this.timeout(60_000);
  let s: External;
  before(async () => {
    s = await setupExternal();
    await s.trustedBy("attacked");
  });
  after(() => s.close());

  for (const [what, forge] of Object.entries(attacks)) {
    it(`is refused: ${what}`, async () => {
      await s.outside.publish(s.key);
      // Past every cooldown: keys that an attack has published are fetched.
      s.outsideClock.aheadMs += 31_000;
      const { fetches } = s.outside.state;
      const tokens = await forge(s);
      expect(tokens).to.not.have.length(0);
      for (const token of tokens) {
        expect(await codeOf(s.take(token)), token.slice(0, 200)).to.equal("INVALID_GRANT");
      }
      expect(await codeOf(s.take(await s.token())), "a good one after it").to.equal("none");
      // In the background for their age, and for a key that is unknown.
      expect(s.outside.state.fetches - fetches).to.be.at.most(2);
      expect(s.outside.state.strays).to.equal(0);
    });
  }

  it("is told from a good token by the attack alone: the same tools make good ones", async () => {
    const edwards = await outsideKey("good-ed", "EdDSA");
    const rsa = await outsideKey("good-rsa", "RS256");
    await s.outside.publish(s.key, edwards, rsa);
    s.outsideClock.aheadMs += 31_000;
    const all = [s.key, edwards, rsa];
    const good = [
      ...all.map((key) => compact(headerOf(key), s.claims(), key.privateKey)),
      ...[undefined, "jwt", "at+jwt", "application/at+jwt"].map((typ) =>
        compact(headerOf(s.key, { typ }), s.claims({ aud: ["other", "muster"] }), s.key.privateKey),
      ),
      await s.token({ exp: s.seconds() - 20, nbf: s.seconds() + 20, iat: s.seconds() + 20 }),
      await s.token({ roles: ["nothing", "operator"], sub: "s".repeat(255) }),
    ];
    for (const token of good) expect(await codeOf(s.take(token)), token.slice(0, 100)).to.equal("none");
  });

  it("is refused where an access token is said to be an ID token", async () => {
    const token = await s.token({}, { typ: "at+jwt" });
    const idToken = { subject_token_type: "urn:ietf:params:oauth:token-type:id_token" } as const;
    expect(await codeOf(s.take(token, idToken))).to.equal("INVALID_GRANT");
    expect(await codeOf(s.take(await s.token(), idToken))).to.equal("none");
  });

  it("is refused by another tenant's issuer: its word is worth nothing here", async () => {
    const other = await openOutside("/other");
    const key = await outsideKey("k1", "ES256");
    await other.publish(key);
    await s.trustedBy("others", { issuer: other.issuer });
    const own = await other.sign(key, s.claims({ iss: other.issuer }));
    expect((await s.take(own)).principal.tenant_id).to.equal("others");
    expect(await codeOf(s.take(own, { tenant_id: "attacked" }))).to.equal("INVALID_GRANT");
    const posing = await other.sign(key, s.claims());
    for (const tenant_id of ["attacked", "others", undefined]) {
      expect(await codeOf(s.take(posing, { tenant_id }))).to.equal("INVALID_GRANT");
    }
    await other.close();
  });

  it("tells why only whoever holds a token that the issuer has signed", async () => {
    const detailOf = (token: string) =>
      s.take(token).then(
        () => "none",
        (error: unknown) => (error instanceof MusterError ? error.details[0]?.message : error) ?? "nothing",
      );
    expect(await detailOf(await s.token({ roles: ["guest"] }))).to.include("claim roles");
    expect(await detailOf(await s.token({ exp: s.seconds() - 60 }))).to.include("expired");
    const forged = await outsideKey(s.key.kid, "ES256");
    expect(await detailOf(await s.outside.sign(forged, s.claims({ exp: s.seconds() - 60 })))).to.equal(
      "nothing",
    );
    expect(await detailOf(await s.token({ aud: "elsewhere" }))).to.equal("nothing");
  });
});
