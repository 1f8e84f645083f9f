import { expect } from "chai";
import { TokenCache } from "./token-cache.ts";

const verified = (expiresAtMs: number) => ({
  principal: { tenant_id: "acme", subject: "user:1", roles: [], permissions: [] },
  expiresAtMs,
  origin: { asOfMs: 1, via: [] },
});

describe("the cache of verified tokens", () => {
  it("is bounded, and drops the least recently used", () => {
    const cache = new TokenCache(2);
    cache.put("a", verified(100));
    cache.put("b", verified(100));
    cache.get("a", 0);
    cache.put("c", verified(100));
    expect(cache.size).to.equal(2);
    expect(cache.get("b", 0)).to.equal(undefined);
    expect(cache.get("a", 0)).to.not.equal(undefined);
  });

  it("gives nothing from the moment of expiry on", () => {
    const cache = new TokenCache(2);
    cache.put("a", verified(100));
    expect(cache.get("a", 99)).to.not.equal(undefined);
    expect(cache.get("a", 100)).to.equal(undefined);
    expect(cache.size).to.equal(0);
  });
});
