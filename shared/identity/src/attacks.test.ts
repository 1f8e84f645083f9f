import { expect } from "chai";
import { createHmac, generateKeyPairSync, KeyObject, sign } from "node:crypto";
import { deflateRawSync } from "node:zlib";
import { CompactEncrypt, exportJWK, exportSPKI, generateKeyPair } from "jose";
import type { CryptoKey } from "jose";
import { codeOf, invalid, keyPair, seconds, setup, startMs } from "../test/issuer.ts";
import type { Changes, Issuer, Pair } from "../test/issuer.ts";

/** Makes tokens that must all be refused. */
type Attack = (issuer: Issuer) => Promise<readonly string[]>;

const base64url = (part: unknown): string =>
  Buffer.from(typeof part === "string" ? part : JSON.stringify(part)).toString("base64url");
const headerOf = ({ alg, kid }: Pair, more: object = {}) => ({ alg, kid, typ: "at+jwt", ...more });

/** A JWS over any header and payload, text or JSON, where a library would refuse to sign. */
function compact(header: unknown, payload: unknown, key: CryptoKey): string {
  const text = `${base64url(header)}.${base64url(payload)}`;
  const digest = key.algorithm.name === "ECDSA" ? "sha256" : null;
  const bytes = sign(digest, Buffer.from(text), { key: KeyObject.from(key), dsaEncoding: "ieee-p1363" });
  return `${text}.${bytes.toString("base64url")}`;
}

const withClaims =
  (...all: Record<string, unknown>[]): Attack =>
  ({ tokenOf }) =>
    Promise.all(all.map((claims) => tokenOf({ claims })));
const withHeaders =
  (...all: Record<string, unknown>[]): Attack =>
  async ({ pair, claimsOf }) =>
    all.map((header) => compact(headerOf(pair, header), claimsOf(), pair.privateKey));

/** A header that names a key, by that key and, so that it is the header that is refused, by the true one. */
const withKey =
  (headersOf: (mallory: Pair) => object): Attack =>
  async ({ pair, claimsOf }) => {
    const mallory = await keyPair(pair.kid);
    const header = headerOf(pair, headersOf(mallory));
    return [mallory, pair].map(({ privateKey }) => compact(header, claimsOf(), privateKey));
  };

const spellings = ["none", "None", "NONE", "nOnE", ""];

const algorithms: Record<string, Attack> = {
  "alg none, in every spelling, with and without a signature": async ({ tokenOf }) => {
    const [, payload, signature] = (await tokenOf()).split(".");
    return spellings.flatMap((alg) => {
      const header = base64url({ alg, kid: "k1", typ: "at+jwt" });
      return ["", signature].map((end) => `${header}.${payload}.${end}`);
    });
  },
  "HMAC keyed with the public key, in every form of it": async ({ pair, claimsOf }) => {
    const raw = Buffer.from(`${pair.jwk.x}${pair.jwk.y ?? ""}`, "base64url");
    const secrets = [await exportSPKI(pair.publicKey), JSON.stringify(pair.jwk), raw, ""];
    return secrets.flatMap((secret) =>
      (["256", "384", "512"] as const).map((bits) => {
        const text = `${base64url(headerOf(pair, { alg: `HS${bits}` }))}.${base64url(claimsOf())}`;
        return `${text}.${createHmac(`sha${bits}`, secret).update(text).digest("base64url")}`;
      }),
    );
  },
  "an algorithm off the list": async ({ pair, tokenOf }) => {
    const others = ["RS256", "PS256", "ES384", "ES512"];
    return await Promise.all(
      others.map(async (alg) => {
        const { privateKey } = await generateKeyPair(alg);
        return await tokenOf({ header: { alg, kid: pair.kid }, key: privateKey });
      }),
    );
  },
  "an algorithm in another spelling": withHeaders({ alg: "es256" }, { alg: ["ES256"] }, { alg: "ES256 " }),
  "an algorithm of the list that is not its key's": async ({ pair, issuer, claimsOf }) => {
    const edwards = await keyPair("k2", "EdDSA");
    issuer.keys.push(edwards.jwk);
    return [
      compact({ ...headerOf(pair), alg: "EdDSA" }, claimsOf(), pair.privateKey),
      compact({ ...headerOf(edwards), alg: "ES256" }, claimsOf(), edwards.privateKey),
      compact({ ...headerOf(edwards), kid: pair.kid }, claimsOf(), edwards.privateKey),
    ];
  },
  "a signature of nothing but zeros": async ({ tokenOf }) => {
    const [header, payload] = (await tokenOf()).split(".");
    return [64, 32, 0].map((size) => `${header}.${payload}.${base64url("\0".repeat(size))}`);
  },
};

const keys: Record<string, Attack> = {
  "a key in the header: jwk": withKey((mallory) => ({ jwk: mallory.jwk })),
  "a key by address: jku": withKey(() => ({ jku: "https://evil.example/jwks.json" })),
  "a certificate by address: x5u": withKey(() => ({ x5u: "http://169.254.169.254/cert.pem" })),
  "a certificate in the header: x5c": withKey(() => ({ x5c: ["AAAA"] })),
  "another's key under a known kid": async ({ pair, tokenOf }) => [
    await tokenOf({ key: (await keyPair(pair.kid)).privateKey }),
  ],
  "an unknown kid": withHeaders({ kid: "k9" }),
  "a kid that is missing, empty, long, a path, a query or no text": withHeaders(
    { kid: undefined },
    { kid: "" },
    { kid: "k".repeat(129) },
    { kid: "../../etc/passwd" },
    { kid: "k1' OR '1'='1" },
    { kid: ["k1"] },
    { kid: 1 },
  ),
  "an invalid curve: a key whose point is not on it": async ({ pair, issuer, tokenOf }) => {
    const { y = "" } = pair.jwk;
    const moved = Buffer.from(y, "base64url");
    moved[31]! ^= 1;
    issuer.keys.push({ ...pair.jwk, kid: "off", y: moved.toString("base64url") });
    return [await tokenOf({ header: { kid: "off" } })];
  },
  "a weak key: a point of small order, to which one signature fits every text": async (issuer) => {
    const identity = Buffer.from([1, ...new Array<number>(31).fill(0)]);
    const x = identity.toString("base64url");
    issuer.issuer.keys.push({ kty: "OKP", crv: "Ed25519", x, kid: "weak", alg: "EdDSA", use: "sig" });
    const text = `${base64url({ alg: "EdDSA", kid: "weak", typ: "at+jwt" })}.${base64url(issuer.claimsOf())}`;
    return [`${text}.${Buffer.concat([identity, Buffer.alloc(32)]).toString("base64url")}`];
  },
  "a weak key: RSA of 1024 bits in the issuer's own set": async ({ issuer, claimsOf }) => {
    const { publicKey, privateKey } = generateKeyPairSync("rsa", { modulusLength: 1_024 });
    issuer.keys.push({ ...(await exportJWK(publicKey)), kid: "rsa", alg: "RS256", use: "sig" });
    const text = `${base64url({ alg: "RS256", kid: "rsa", typ: "at+jwt" })}.${base64url(claimsOf())}`;
    return [`${text}.${sign("sha256", Buffer.from(text), privateKey).toString("base64url")}`];
  },
  "a private key that the set tells everybody": async ({ issuer, tokenOf }) => {
    const told = await keyPair("told");
    issuer.keys.push({ ...(await exportJWK(told.privateKey)), kid: "told", alg: "ES256", use: "sig" });
    return [await tokenOf({}, told)];
  },
  "a key that is published for encryption": async ({ issuer, tokenOf }) => {
    const other = await keyPair("enc");
    issuer.keys.push({ ...other.jwk, use: "enc" });
    return [await tokenOf({}, other)];
  },
};

const forms: Record<string, Attack> = {
  "a payload that was changed after signing": async ({ tokenOf, claimsOf }) => {
    const [header, , signature] = (await tokenOf()).split(".");
    const changes: Changes[] = [{ claims: { tenant_id: "other" } }, { claims: { roles: ["owner"] } }];
    return changes.map((change) => `${header}.${base64url(claimsOf(change))}.${signature}`);
  },
  "a header that was changed after signing": async ({ pair, tokenOf }) => {
    const [, payload, signature] = (await tokenOf()).split(".");
    const { alg, kid, typ } = headerOf(pair);
    return [`${base64url({ typ, alg, kid })}.${payload}.${signature}`];
  },
  "a signature that was changed, cut, doubled, or is another token's": async ({ tokenOf }) => {
    const [header, payload, signature = ""] = (await tokenOf()).split(".");
    const other = (await tokenOf()).split(".")[2] ?? "";
    const first = signature.startsWith("A") ? "B" : "A";
    const ends = [first + signature.slice(1), signature.slice(0, -4), signature + signature, other];
    return ends.map((end) => `${header}.${payload}.${end}`);
  },
  "a signature with stray bits behind its end, which is the same bytes": async ({ tokenOf }) => {
    const token = await tokenOf();
    const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    // 64 bytes are 86 characters: of the last one the low four bits mean nothing.
    return [`${token.slice(0, -1)}${alphabet[alphabet.indexOf(token.at(-1)!) ^ 1]}`];
  },
  "a header with crit, b64 or zip": withHeaders(
    { crit: ["exp"], exp: 1 },
    { crit: ["b64"], b64: false },
    { crit: [] },
    { b64: true },
    { zip: "DEF" },
  ),
  "a payload that is compressed": async ({ pair, claimsOf }) => {
    const text = `${base64url(headerOf(pair, { zip: "DEF" }))}.${deflateRawSync(JSON.stringify(claimsOf())).toString("base64url")}`;
    const key = { key: KeyObject.from(pair.privateKey), dsaEncoding: "ieee-p1363" as const };
    return [`${text}.${sign("sha256", Buffer.from(text), key).toString("base64url")}`];
  },
  "a token within a token, signed or encrypted": async ({ pair, tokenOf, claimsOf }) => {
    const inner = await tokenOf();
    const encrypt = new CompactEncrypt(Buffer.from(JSON.stringify(claimsOf())));
    encrypt.setProtectedHeader({ alg: "ECDH-ES", enc: "A256GCM", kid: pair.kid, typ: "at+jwt" });
    return [
      compact(headerOf(pair, { cty: "JWT" }), inner, pair.privateKey),
      compact(headerOf(pair, { cty: "JWT" }), JSON.stringify(inner), pair.privateKey),
      await encrypt.encrypt((await generateKeyPair("ECDH-ES")).publicKey),
    ];
  },
  "a token that is larger than any of ours": async ({ pair, claimsOf }) => [
    compact(headerOf(pair), claimsOf({ claims: { more: "x".repeat(3_000) } }), pair.privateKey),
    "a".repeat(1_000_000),
    `${"e".repeat(4_000)}.${"e".repeat(4_000)}.${"e".repeat(4_000)}`,
  ],
  "a member that stands twice, in payload or header": async ({ pair, claimsOf }) => {
    const [header, claims] = [JSON.stringify(headerOf(pair)), JSON.stringify(claimsOf())];
    const doubled = (json: string, member: string) => `{${member},${json.slice(1)}`;
    return [
      compact(header, doubled(claims, '"tenant_id":"other"'), pair.privateKey),
      compact(header, doubled(claims, '"exp":9999999999'), pair.privateKey),
      compact(doubled(header, '"alg":"none"'), claims, pair.privateKey),
      compact(doubled(header, '"kid":"k9"'), claims, pair.privateKey),
    ];
  },
  "a payload that is no JSON object in UTF-8": async ({ pair }) => {
    const payloads = ["", "null", "[]", '"text"', "{", "1", "\ufeff{}"];
    return payloads.map((payload) => compact(headerOf(pair), payload, pair.privateKey));
  },
  "whatever is not one compact JWS": async ({ tokenOf }) => {
    const good = await tokenOf();
    const [header, payload, signature] = good.split(".");
    const flattened = JSON.stringify({ protected: header, payload, signature });
    const general = JSON.stringify({ payload, signatures: [{ protected: header, signature }] });
    const odd = [" ", "a.b", "...", `${good}.x`, `${good}=`, `${good}\n`, ` ${good}`, `${good}\0`, "é.é.é"];
    return [...odd, flattened, general, `${header}.${payload}`, `${good}.${good}`];
  },
};

const claims: Record<string, Attack> = {
  "the type of another kind of token, or none": withHeaders(
    { typ: undefined },
    { typ: "JWT" },
    { typ: "approval+jwt" },
    { typ: "dpop+jwt" },
    { typ: ["at+jwt"] },
  ),
  "another audience": withClaims({ aud: "elsewhere" }, { aud: undefined }, { aud: "" }, { aud: "Muster" }),
  "a list of audiences, though it names ours": withClaims(
    { aud: ["muster", "elsewhere"] },
    { aud: ["muster"] },
  ),
  "another issuer": withClaims(
    { iss: "https://auth.elsewhere" },
    { iss: undefined },
    { iss: "https://auth.muster/" },
    { iss: ["https://auth.muster"] },
  ),
  "an expired token": withClaims({ exp: seconds(startMs) - 6 }),
  "no expiry, or one that is no number": withClaims({ exp: undefined }, { exp: "9999999999" }, { exp: null }),
  "a token that is not valid yet": withClaims({ nbf: seconds(startMs) + 6 }, { nbf: "0" }),
  "no time of issue": withClaims({ iat: undefined }, { iat: "1" }),
  "no subject": withClaims({ sub: undefined }, { sub: "" }, { sub: ["user:0190aaaa"] }),
  "no id": withClaims({ jti: undefined }, { jti: "" }),
  "a token without a tenant": withClaims({ tenant_id: undefined }, { tenant_id: null }),
  "a tenant that is empty, a list, or no tenant's id": withClaims(
    { tenant_id: "" },
    { tenant_id: ["acme"] },
    { tenant_id: ["acme", "other"] },
    { tenant_id: "acme,other" },
    { tenant_id: "acme.other" },
    { tenant_id: "*" },
  ),
  "a token of the shadow, or of a tenant that is shadow mode's": withClaims(
    { sub: "shadow" },
    { tenant_id: "shadow-tenant" },
    { tenant_id: "shadow-other", sub: "shadow" },
  ),
  "roles that are none, or text": withClaims(
    { roles: ["root"] },
    { roles: "owner" },
    { roles: { 0: "owner" } },
  ),
};

describe("an attack on an access token", () => {
  for (const [what, forge] of Object.entries({ ...algorithms, ...keys, ...forms, ...claims })) {
    it(`is refused: ${what}`, async () => {
      const issuer = await setup();
      const tokens = await forge(issuer);
      expect(tokens).to.not.have.length(0);
      for (const token of tokens) {
        expect(await codeOf(issuer.verifier.verify(token)), token.slice(0, 200)).to.equal(invalid);
      }
      expect(await codeOf(issuer.verifier.verify(await issuer.tokenOf())), "a good one after it").to.equal(
        "accepted",
      );
      // One for the set, and one for a key that it lacks.
      expect(issuer.issuer.fetches).to.be.at.most(2);
    });
  }

  it("is told from a good token by the attack alone: the same tools make good ones", async () => {
    const { pair, issuer, verifier, claimsOf, tokenOf } = await setup();
    const edwards = await keyPair("k2", "EdDSA");
    issuer.keys.push(edwards.jwk);
    const good = [
      ...[pair, edwards].map((from) => compact(headerOf(from), claimsOf(), from.privateKey)),
      await tokenOf({ claims: { aud: "muster", nbf: seconds(startMs) } }, edwards),
    ];
    for (const token of good) expect(await codeOf(verifier.verify(token))).to.equal("accepted");
  });
});
