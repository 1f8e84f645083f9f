import { eventuallyHolds } from "@muster/testing/eventually";
import { expect } from "chai";
import { blockListOf } from "../src/issuers/addresses.ts";
import { fetchJson } from "../src/issuers/fetch.ts";
import { setupExternal } from "./external.ts";
import type { External } from "./external.ts";
import { openOutside, outsideKey } from "./outside.ts";
import type { Mood, Outside, OutsideKey } from "./outside.ts";
import { codeOf } from "./setup.ts";

const unavailable = "DEPENDENCY_UNAVAILABLE";
const moods: Mood[] = [
  ...([
    "away",
    "silent",
    "failing",
    "garbage",
    "no-keys",
    "huge",
    "endless",
    "redirecting",
    "compressed",
  ] as const),
];

describe("the keys of an issuer outside", function () {
  this.timeout(60_000);
  let s: External;
  before(async () => (s = await setupExternal()));
  after(() => s.close());

  /** A tenant of its own with an issuer of its own. */
  async function trusted(tenantId: string): Promise<{
    outside: Outside;
    key: OutsideKey;
    token(key?: OutsideKey): Promise<string>;
    take(key?: OutsideKey): Promise<string>;
  }> {
    const outside = await openOutside(`/${tenantId}`);
    const key = await outsideKey("k1", "RS256");
    await outside.publish(key);
    await s.trustedBy(tenantId, { issuer: outside.issuer });
    const token = (by: OutsideKey = key) => outside.sign(by, s.claims({ iss: outside.issuer }));
    return { outside, key, token, take: async (by) => await codeOf(s.take(await token(by))) };
  }
  const pass = (seconds: number) => (s.outsideClock.aheadMs += seconds * 1_000);

  for (const mood of moods) {
    it(`serve for an hour while the issuer is ${mood}, then nothing is known, and all is well when it is back`, async () => {
      const { outside, take } = await trusted(`mood-${mood}`);
      outside.state.mood = mood;
      expect(await take(), "never had").to.equal(unavailable);
      outside.state.mood = "well";
      pass(1);
      expect(await take()).to.equal("none");
      outside.state.mood = mood;
      for (const seconds of [601, 1_500, 1_400]) {
        pass(seconds);
        expect(await take(), `${seconds} s later`).to.equal("none");
      }
      pass(100);
      for (let i = 0; i < 3; i++) expect(await take(), "older than an hour").to.equal(unavailable);
      outside.state.mood = "well";
      pass(1);
      expect(await take()).to.equal("none");
      expect(outside.state.strays, "redirects that were followed").to.equal(0);
      await outside.close();
    });
  }

  it("are fetched again in the background when they are old, and at once when a token has another, once within the cooldown", async () => {
    const { outside, take, key } = await trusted("rotates");
    expect(await take()).to.equal("none");
    expect(outside.state.fetches).to.equal(1);
    const next = await outsideKey("k2", "ES256");
    await outside.publish(key, next);
    expect(await take(next), "rotated").to.equal("none");
    expect(outside.state.fetches).to.equal(2);
    const unknown = await outsideKey("k3", "ES256");
    for (let i = 0; i < 20; i++) expect(await take(unknown)).to.equal("INVALID_GRANT");
    expect(outside.state.fetches).to.equal(2);
    pass(31);
    for (let i = 0; i < 20; i++) expect(await take(unknown)).to.equal("INVALID_GRANT");
    expect(outside.state.fetches).to.equal(3);
    await outside.publish(next);
    pass(601);
    await take();
    await eventuallyHolds(async () => expect(await take(), "withdrawn").to.equal("INVALID_GRANT"), 5_000);
    expect(await take(next)).to.equal("none");
    await outside.close();
  });

  it("that are unknown while the issuer is away are no fault of the token", async () => {
    const { outside, take } = await trusted("unknown-away");
    expect(await take()).to.equal("none");
    outside.state.mood = "away";
    const next = await outsideKey("k2", "ES256");
    for (let i = 0; i < 5; i++) expect(await take(next)).to.equal(unavailable);
    expect(await take(), "the known one").to.equal("none");
    await outside.publish(next);
    outside.state.mood = "well";
    pass(1);
    expect(await take(next)).to.equal("none");
    await outside.close();
  });

  it("are fetched once for twenty who come at once; those who may not wait are told to come again", async () => {
    const { outside, token, take } = await trusted("crowd");
    const tokens = await Promise.all(Array.from({ length: 20 }, () => token()));
    const codes = await Promise.all(tokens.map((one) => codeOf(s.take(one))));
    expect(outside.state.fetches).to.equal(1);
    for (const code of codes) expect(code).to.be.oneOf(["none", unavailable]);
    expect(codes).to.include("none");
    expect(await take()).to.equal("none");
    await outside.close();
  });

  it("hold up no other tenant's, however slow their issuer is and however many wait", async () => {
    const slow = await trusted("slow");
    const quick = await trusted("quick");
    slow.outside.state.mood = "silent";
    const tokens = await Promise.all(Array.from({ length: 100 }, () => slow.token()));
    const codes: string[] = [];
    const waiting = tokens.map(async (one) => codes.push(await codeOf(s.take(one))));
    await eventuallyHolds(async () => expect(slow.outside.state.fetches).to.equal(1), 5_000);
    expect(await quick.take()).to.equal("none");
    expect(codes.length, "answered though eight still wait").to.be.at.most(92);
    await Promise.all(waiting);
    expect(new Set(codes)).to.deep.equal(new Set([unavailable]));
    await Promise.all([slow.outside.close(), quick.outside.close()]);
  });

  it("are asked for at no address that may not be, by number or by name", async () => {
    const [none, here] = [blockListOf([]), blockListOf(["127.0.0.0/8"])];
    const port = new URL(s.outside.issuer).port;
    const fetched = (address: string, networks: typeof none) =>
      fetchJson(address, networks, AbortSignal.timeout(5_000)).then(
        () => "an answer",
        (error: unknown) => String(error),
      );
    const refused = ["http://10.0.0.1", "https://10.0.0.1", `http://127.0.0.1:${port}`, "file:///etc/passwd"];
    for (const address of refused)
      expect(await fetched(address, none)).to.match(/may not be asked|must begin/);
    expect(await fetched(`https://localhost:${port}`, none)).to.include("MUSTER_AUTH_ISSUER_NETWORKS");
    expect(await fetched(`http://localhost:${port}/realms/acme/keys`, here)).to.equal("an answer");
    expect(s.outside.state.strays).to.equal(0);
  });

  it("leave a key that is of no use aside, and are not had from a document of another issuer", async () => {
    const { outside, take, key } = await trusted("odd");
    outside.state.keys = [
      { kty: "oct", kid: "shared", k: "AAAA" },
      { kty: "RSA", kid: "cut", n: "AQAB", e: "AQAB" },
      { kty: "AKP" },
      null as never,
      "text" as never,
      { ...key.jwk, x5c: ["A".repeat(5_000)] },
    ];
    expect(await take()).to.equal("none");
    const posing = await trusted("posing");
    posing.outside.state.discovered = { issuer: outside.issuer };
    expect(await posing.take()).to.equal(unavailable);
    const elsewhere = await trusted("elsewhere");
    for (const jwks_uri of [
      "http://10.0.0.1/keys",
      "https://169.254.169.254/",
      "file:///etc/passwd",
      "http://localhost:1/",
      7,
    ]) {
      elsewhere.outside.state.discovered = { jwks_uri };
      pass(1);
      expect(await elsewhere.take(), String(jwks_uri)).to.equal(unavailable);
    }
    expect(elsewhere.outside.state.fetches).to.equal(0);
    await Promise.all([outside, posing.outside, elsewhere.outside].map((one) => one.close()));
  });
});
