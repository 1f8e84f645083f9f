import { generateKeyPairSync } from "node:crypto";
import type { Principal } from "@muster/contracts/principal";
import { openVerifier } from "@muster/identity/verify";
import { createMetrics } from "@muster/telemetry/metrics";
import { openLogger } from "@muster/telemetry/logger";
import { expect } from "chai";
import { decodeJwt, decodeProtectedHeader } from "jose";
import { Minter } from "./minter.ts";

const principal: Principal = {
  tenant_id: "acme",
  subject: "user:u",
  roles: ["admin"],
  permissions: ["secrets.read"],
};

function setup() {
  const { publicKey, privateKey } = generateKeyPairSync("ed25519");
  const clock = { nowMs: 1_700_000_000_000, asOf: new Date(1_600_000_000_000) };
  const minter = new Minter({
    ttlSeconds: 600,
    keptMax: 2,
  });
  const signing = (kid = "k1") => ({
    key: { kid, alg: "EdDSA", privateKey },
    atMs: clock.nowMs,
    origin: { asOf: clock.asOf, via: ["api-key:k"] },
  });
  const { crv = "", x = "" } = publicKey.export({ format: "jwk" });
  const jwk = { kty: "OKP", crv, x, kid: "k1", alg: "EdDSA", use: "sig" };
  const verifier = openVerifier({
    fetchKeys: () => Promise.resolve({ keys: [jwk] }),
    fetchRevocations: () => Promise.resolve({ items: [], next_cursor: null }),
    mode: "enforced",
    shadowTenantId: "shadow-tenant",
    metrics: createMetrics({ service: "test" }),
    logger: openLogger({ service: "test", level: "silent" }),
    now: () => clock.nowMs,
  });
  return { minter, clock, verifier, signing };
}

describe("access tokens", () => {
  it("carry every claim of RFC 9068 that verifiers need, and verify", async () => {
    const { minter, verifier, signing } = setup();
    const { token, expiresInSeconds } = await minter.mint("key", principal, null, signing());
    expect(expiresInSeconds).to.equal(600);
    expect(decodeProtectedHeader(token)).to.deep.equal({ alg: "EdDSA", kid: "k1", typ: "at+jwt" });
    expect(decodeJwt(token)).to.include.keys("iss", "aud", "sub", "exp", "iat", "nbf", "jti", "tenant_id");
    expect(await verifier.verify(token)).to.deep.equal(principal);
  });

  it("are given again while half their life is left, and made anew for another grant", async () => {
    const { minter, clock, signing } = setup();
    const first = await minter.mint("key", principal, null, signing());
    clock.nowMs += 300_000;
    const again = await minter.mint("key", principal, null, signing());
    expect(again).to.deep.equal({ token: first.token, expiresInSeconds: 300 });
    clock.nowMs += 1_000;
    const fresh = await minter.mint("key", principal, null, signing());
    expect(fresh.expiresInSeconds).to.equal(600);
    const demoted = await minter.mint("key", { ...principal, roles: ["member"] }, null, signing());
    expect(decodeJwt(demoted.token)["roles"]).to.deep.equal(["member"]);
  });

  it("never outlive what they were exchanged for", async () => {
    const { minter, clock, signing } = setup();
    const { expiresInSeconds } = await minter.mint(
      "key",
      principal,
      new Date(clock.nowMs + 90_500),
      signing(),
    );
    expect(expiresInSeconds).to.equal(90);
  });

  it("are signed anew when another key signs", async () => {
    const { minter, signing } = setup();
    const kidOf = async (kid: string) => {
      const { token } = await minter.mint("key", principal, null, signing(kid));
      return decodeProtectedHeader(token).kid;
    };
    expect([await kidOf("k1"), await kidOf("k2"), await kidOf("k2")]).to.deep.equal(["k1", "k2", "k2"]);
  });

  it("are made anew after a revocation, whatever clock signs them, and say which one they were made after", async () => {
    const { minter, clock, signing } = setup();
    const mint = async () => (await minter.mint("key", principal, null, signing())).token;
    const before = await mint();
    clock.asOf = new Date(clock.asOf.getTime() + 1);
    clock.nowMs -= 30_000;
    const after = await mint();
    expect([decodeJwt(before)["as_of"], decodeJwt(after)["as_of"]]).to.deep.equal([
      1_600_000_000_000, 1_600_000_000_001,
    ]);
    expect(await mint()).to.equal(after);
  });
});
