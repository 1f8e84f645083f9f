import { expect } from "chai";
import type { JSONWebKeySet } from "jose";
import { codeOf, invalid, keyPair, seconds, setup, startMs } from "../test/issuer.ts";

/** Lets the event loop turn until it holds; the test's own time is the limit. */
async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setImmediate(resolve));
  for (let i = 0; i < 20; i++) await Promise.resolve();
}

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
      const principal = await verifier.verify(token, "vm-ops.vm.list.v1");
      expect(principal).to.deep.equal({
        tenant_id: "shadow-tenant",
        subject: "shadow",
        roles: ["member"],
        permissions: [],
      });
    }
    const text = await metrics.registry.metrics();
    const asked = 'route="vm-ops.vm.list.v1"';
    expect(text).to.include(
      `muster_auth_shadow_total{code="MISSING_BEARER_TOKEN",${asked},service="test"} 1`,
    );
    expect(text).to.include(`muster_auth_shadow_total{code="${invalid}",${asked},service="test"} 2`);
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
