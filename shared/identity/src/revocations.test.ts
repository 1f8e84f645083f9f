import type { TokenRevocation } from "@muster/contracts/token-revocations";
import { createMetrics } from "@muster/telemetry/metrics";
import { expect } from "chai";
import { codeOf, invalid, seconds, setup, startMs } from "../test/issuer.ts";
import { Revocations } from "./revocations.ts";
import type { RevocationsPage } from "./revocations.ts";

const hourMs = 3_600_000;
const iso = (ms: number) => new Date(ms).toISOString();

const revocation = (o: Partial<TokenRevocation> & { atMs?: number } = {}): TokenRevocation => {
  const { atMs = startMs, ...rest } = o;
  const times = { not_before: iso(atMs), until: iso(atMs + hourMs) };
  return { tenant_id: "acme", subject: "user:0190aaaa", reason: "account-disabled", ...times, ...rest };
};

function setOf(o: { subjectsMax?: number } = {}) {
  const clock = { nowMs: startMs };
  const metrics = createMetrics({ service: "test" });
  const set = new Revocations({
    fetchPage: () => Promise.resolve({ items: [], next_cursor: null }),
    ...{ maxAgeMs: 600_000, staleMaxMs: hourMs, subjectsMax: o.subjectsMax ?? 100 },
    now: () => clock.nowMs,
    onFailed: () => undefined,
    metrics,
  });
  const isVoid = (subject: string, asOfMs: number, tenant_id = "acme", via = ["api-key:k"]) =>
    set.voids({ principal: { tenant_id, subject, roles: [], permissions: [] }, origin: { asOfMs, via } });
  return { set, clock, metrics, isVoid };
}

/** Lets the event loop turn until it holds; the test's own time is the limit. */
async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setImmediate(resolve));
}

describe("what is revoked", () => {
  it("is what was made before, of that subject, in that tenant, and nothing else", () => {
    const { set, isVoid } = setOf();
    set.add([revocation({ subject: "user:a" })]);
    expect(isVoid("user:a", startMs - 1)).to.equal(true);
    expect(isVoid("user:a", startMs)).to.equal(false);
    expect(isVoid("user:b", startMs - 1)).to.equal(false);
    expect(isVoid("user:a", startMs - 1, "other")).to.equal(false);
    set.add([revocation({ tenant_id: "other", subject: null })]);
    expect(isVoid("user:b", startMs - 1, "other")).to.equal(true);
    expect(isVoid("user:b", startMs, "other")).to.equal(false);
  });

  it("may be what a token was exchanged for, and leaves its holder's others alone", () => {
    const { set, isVoid } = setOf();
    set.add([revocation({ subject: "api-key:k" })]);
    expect(isVoid("user:a", startMs - 1)).to.equal(true);
    expect(isVoid("user:a", startMs - 1, "acme", ["api-key:other", "refresh-family:f"])).to.equal(false);
    set.add([revocation({ subject: "refresh-family:f" })]);
    expect(isVoid("user:a", startMs - 1, "acme", ["api-key:other", "refresh-family:f"])).to.equal(true);
    expect(isVoid("user:a", startMs - 1, "acme", [])).to.equal(false);
  });

  it("is the same in whatever order list and events come", () => {
    const early = revocation({ subject: "user:a" });
    const later = revocation({ subject: "user:a", atMs: startMs + 1_000 });
    for (const order of [
      [early, later],
      [later, early],
    ]) {
      const { set, isVoid } = setOf();
      for (const one of order) set.add([one]);
      expect(isVoid("user:a", startMs + 999)).to.equal(true);
      expect(isVoid("user:a", startMs + 1_000)).to.equal(false);
      expect(set.size).to.equal(1);
    }
  });

  it("is forgotten when no token can be alive, and is counted until then", async () => {
    const { set, clock, metrics, isVoid } = setOf();
    const gauge = () => metrics.registry.getSingleMetricAsString("muster_auth_revocations");
    set.add([revocation(), revocation({ tenant_id: "other", subject: null })]);
    expect(await gauge()).to.match(/\} 2$/m);
    clock.nowMs += hourMs;
    expect(isVoid("user:0190aaaa", startMs - 1)).to.equal(false);
    set.add([]);
    expect(set.size).to.equal(0);
    expect(await gauge()).to.match(/\} 0$/m);
    set.add([revocation()]);
    expect(set.size, "what came too late").to.equal(0);
  });

  it("is bounded: beyond, a tenant is one entry, and nothing that is void passes", () => {
    const { set, isVoid } = setOf({ subjectsMax: 20 });
    for (let n = 0; n < 15; n++) set.add([revocation({ subject: `user:${n}`, atMs: startMs + n })]);
    for (let n = 0; n < 6; n++) set.add([revocation({ tenant_id: "small", subject: `user:${n}` })]);
    expect(set.size).to.equal(7);
    for (let n = 0; n < 15; n++) expect(isVoid(`user:${n}`, startMs + n - 1)).to.equal(true);
    expect(isVoid("user:of-no-entry", startMs + 13), "too much rather than too little").to.equal(true);
    expect(isVoid("user:of-no-entry", startMs + 14), "whoever exchanges again").to.equal(false);
    expect(isVoid("user:of-no-entry", startMs - 1, "small")).to.equal(false);
  });
});

describe("a verifier that hears of revocations", () => {
  it("refuses at once what was made before, known or not, and takes what is made after", async () => {
    const { verifier, tokenOf } = await setup();
    const made = (asOfMs: number) => tokenOf({ claims: { as_of: asOfMs } });
    const [known, unknown, later] = [await made(startMs - 1), await made(startMs - 1), await made(startMs)];
    expect(await codeOf(verifier.verify(known))).to.equal("accepted");
    verifier.tokensRevoked(revocation());
    for (const token of [known, unknown, known]) {
      expect(await codeOf(verifier.verify(token))).to.equal(invalid);
    }
    expect(await codeOf(verifier.verify(later))).to.equal("accepted");
    expect(await codeOf(verifier.verify(await tokenOf({ claims: { tenant_id: "other" } })))).to.equal(
      "accepted",
    );
  });

  it("refuses what is revoked while its signature is looked at", async () => {
    const { verifier, tokenOf } = await setup();
    await verifier.verify(await tokenOf());
    const pending = codeOf(verifier.verify(await tokenOf({ claims: { as_of: startMs - 1 } })));
    for (let i = 0; i < 20; i++) await Promise.resolve();
    verifier.tokensRevoked(revocation());
    expect(await pending).to.equal(invalid);
  });

  it("takes a token without an instant for one of the begin of its second", async () => {
    const { verifier, tokenOf } = await setup();
    verifier.tokensRevoked(revocation({ atMs: startMs + 1 }));
    expect(await codeOf(verifier.verify(await tokenOf()))).to.equal(invalid);
    const next = { iat: seconds(startMs) + 1 };
    expect(await codeOf(verifier.verify(await tokenOf({ claims: next })))).to.equal("accepted");
  });
});

describe("the list of what is revoked", () => {
  it("is waited for by whoever verifies, however long it takes", async () => {
    const answers: ((page: RevocationsPage) => void)[] = [];
    const fetchRevocations = () => new Promise<RevocationsPage>((resolve) => answers.push(resolve));
    const { verifier, tokenOf } = await setup({ fetchRevocations });
    const other = await setup();
    const pending = codeOf(verifier.verify(await tokenOf({ claims: { as_of: startMs - 1 } })));
    // Long enough for whoever does not wait.
    for (let n = 0; n < 20; n++) await other.verifier.verify(await other.tokenOf());
    expect(await Promise.race([pending, Promise.resolve("waits")])).to.equal("waits");
    answers[0]?.({ items: [], next_cursor: null });
    expect(await pending).to.equal("accepted");
    verifier.tokensRevoked();
    const known = codeOf(verifier.verify(await tokenOf({ claims: { as_of: startMs - 1 } })));
    for (let n = 0; n < 20; n++) await other.verifier.verify(await other.tokenOf());
    expect(await Promise.race([known, Promise.resolve("waits")]), "events were missed").to.equal("waits");
    answers[1]?.({ items: [revocation()], next_cursor: null });
    expect(await known).to.equal(invalid);
    expect(answers).to.have.length(2);
  });

  it("is read, every page of it, before any token is judged", async () => {
    const { verifier, tokenOf, issuer } = await setup();
    const others = Array.from({ length: 4 }, (_, n) => revocation({ subject: `user:${n}` }));
    issuer.revocations.push(...others, revocation());
    const token = await tokenOf({ claims: { as_of: startMs - 1 } });
    expect(await Promise.all([token, token].map((one) => codeOf(verifier.verify(one))))).to.deep.equal([
      invalid,
      invalid,
    ]);
    expect(issuer.lists).to.equal(3);
  });

  it("that was never had is no fault of the token: 503, twice a second asked for, then accepted", async () => {
    const { verifier, tokenOf, issuer, clock } = await setup();
    issuer.listFailing = true;
    const token = await tokenOf();
    for (let n = 0; n < 5; n++)
      expect(await codeOf(verifier.verify(token))).to.equal("DEPENDENCY_UNAVAILABLE");
    expect(issuer.lists).to.equal(1);
    issuer.listFailing = false;
    clock.nowMs += 500;
    expect(await codeOf(verifier.verify(token))).to.equal("accepted");
  });

  it("is waited for after a time in which events may have been missed, and asked for until it comes", async () => {
    const { verifier, tokenOf, issuer } = await setup();
    const token = await tokenOf({ claims: { as_of: startMs - 1 } });
    expect(await codeOf(verifier.verify(token))).to.equal("accepted");
    issuer.listFailing = true;
    verifier.tokensRevoked();
    expect(await codeOf(verifier.verify(token)), "serves on while it cannot be had").to.equal("accepted");
    issuer.revocations.push(revocation());
    issuer.listFailing = false;
    await until(() => issuer.lists === 3);
    expect(await codeOf(verifier.verify(token))).to.equal(invalid);
    issuer.revocations.push(revocation({ subject: "user:later" }));
    verifier.tokensRevoked();
    const later = await tokenOf({ claims: { sub: "user:later", as_of: startMs - 1 } });
    expect(await codeOf(verifier.verify(later)), "at once").to.equal(invalid);
    await verifier.close();
  });

  it("is read again when it is old, serves on for an hour while it cannot be read, and no longer", async () => {
    const { verifier, tokenOf, issuer, clock } = await setup({ staleMaxMs: hourMs, keysMaxAgeMs: 600_000 });
    const lives = () => tokenOf({ claims: { exp: seconds(clock.nowMs) + 600 } });
    expect(await codeOf(verifier.verify(await lives()))).to.equal("accepted");
    issuer.listFailing = true;
    clock.nowMs += 600_000;
    expect(await codeOf(verifier.verify(await lives()))).to.equal("accepted");
    await until(() => issuer.lists === 2);
    clock.nowMs += hourMs - 600_001;
    expect(await codeOf(verifier.verify(await lives()))).to.equal("accepted");
    clock.nowMs += 1;
    expect(await codeOf(verifier.verify(await lives()))).to.equal("DEPENDENCY_UNAVAILABLE");
  });
});
