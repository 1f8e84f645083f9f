import { expect } from "chai";
import { codeOf, invalid, keyPair, seconds, setup, startMs } from "../test/issuer.ts";

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
    await verifier.reloadKeys();
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

  it("are fetched again for an unknown kid, but not within the cooldown", async () => {
    const { verifier, tokenOf, issuer, clock } = await setup();
    await verifier.verify(await tokenOf());
    const rotated = await keyPair("k2");
    issuer.keys = [...issuer.keys, rotated.jwk];
    const token = await tokenOf({}, rotated);
    for (let i = 0; i < 10; i++) expect(await codeOf(verifier.verify(token))).to.equal(invalid);
    expect(issuer.fetches).to.equal(1);
    clock.nowMs += 30_000;
    expect(await codeOf(verifier.verify(token))).to.equal("accepted");
    expect(issuer.fetches).to.equal(2);
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
