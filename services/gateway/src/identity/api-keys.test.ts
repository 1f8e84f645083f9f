import { randomBytes } from "node:crypto";
import { MusterError } from "@muster/contracts/errors";
import { expect } from "chai";
import { ApiKeys, expiryMarginMs } from "./api-keys.ts";

const principal = { tenant_id: "acme", subject: "user:u", roles: ["owner" as const], permissions: [] };
const newKey = () => `mk_abcdefghij_${randomBytes(32).toString("base64url")}`;

function setup(o: { expiresInSeconds?: number; answer?: () => void } = {}) {
  const state = {
    nowMs: 1_000_000,
    asked: [] as { prefix: string; key_sha256: string; client_address?: string }[],
    /** Tokens that were made before are void. */
    revokedAtMs: 0,
  };
  const keys = new ApiKeys({
    async exchange(asked) {
      state.asked.push(asked);
      const asOfMs = state.nowMs;
      await Promise.resolve();
      o.answer?.();
      const token = `token-${state.asked.length}`;
      const expires_in_seconds = o.expiresInSeconds ?? 600;
      return { access_token: token, expires_in_seconds, principal, origin: { asOfMs, via: [] } };
    },
    isVoid: ({ origin }) => origin.asOfMs < state.revokedAtMs,
    ttlMs: 30_000,
    refusedTtlMs: 2_000,
    keysMax: 3,
    now: () => state.nowMs,
  });
  return { keys, state };
}

async function codeOf(work: () => unknown): Promise<string> {
  try {
    await work();
  } catch (error) {
    if (error instanceof MusterError) return error.code;
    throw error;
  }
  return "none";
}

describe("API keys at the gateway", () => {
  it("are exchanged once for any number of requests at once, and no key is sent", async () => {
    const { keys, state } = setup();
    const key = newKey();
    const all = await Promise.all(Array.from({ length: 50 }, async () => keys.tokenFor(key)));
    expect(new Set(all.map(({ token }) => token))).to.deep.equal(new Set(["token-1"]));
    expect(state.asked).to.have.length(1);
    expect(state.asked[0]?.prefix).to.equal("abcdefghij");
    expect(JSON.stringify(state.asked)).to.not.include(key);
  });

  it("are asked for again after their time, and a token is never used to its very end", async () => {
    const { keys, state } = setup({ expiresInSeconds: 20 });
    const key = newKey();
    await keys.tokenFor(key);
    state.nowMs += 20_000 - expiryMarginMs - 1;
    expect((await keys.tokenFor(key)).token).to.equal("token-1");
    state.nowMs += 1;
    expect((await keys.tokenFor(key)).token).to.equal("token-2");
  });

  it("stay refused for a short while only", async () => {
    const outcome = { refuse: true };
    const { keys, state } = setup({
      answer: () => {
        if (outcome.refuse) throw new MusterError("INVALID_OR_MISSING_BEARER_TOKEN");
      },
    });
    const key = newKey();
    for (let i = 0; i < 5; i++) {
      expect(await codeOf(() => keys.tokenFor(key))).to.equal("INVALID_OR_MISSING_BEARER_TOKEN");
    }
    expect(state.asked).to.have.length(1);
    outcome.refuse = false;
    state.nowMs += 2_000;
    expect((await keys.tokenFor(key)).token).to.equal("token-2");
  });

  it("are not judged while auth is away: 503, asked again at once", async () => {
    for (const code of ["DEADLINE_EXCEEDED", "DEPENDENCY_UNAVAILABLE", "INTERNAL"] as const) {
      const { keys, state } = setup({
        answer: () => {
          throw new MusterError(code);
        },
      });
      const key = newKey();
      expect(await codeOf(() => keys.tokenFor(key))).to.equal("DEPENDENCY_UNAVAILABLE");
      expect(await codeOf(() => keys.tokenFor(key))).to.equal("DEPENDENCY_UNAVAILABLE");
      expect(state.asked).to.have.length(2);
    }
  });

  it("are kept up to a bound", async () => {
    const { keys, state } = setup();
    const first = newKey();
    await keys.tokenFor(first);
    for (let i = 0; i < 3; i++) await keys.tokenFor(newKey());
    await keys.tokenFor(first);
    expect(state.asked).to.have.length(5);
  });

  it("are asked for again when their token was refused, once for each token", async () => {
    const { keys, state } = setup();
    const key = newKey();
    await keys.tokenFor(key);
    expect((await keys.renewed(key, "token-1"))?.token).to.equal("token-2");
    // Who comes later with the same refusal is given what was fetched since.
    expect((await keys.renewed(key, "token-1"))?.token).to.equal("token-2");
    expect(state.asked).to.have.length(2);
  });

  it("are not given what was asked for before a refusal, nor the same token twice", async () => {
    const tokens = ["old", "old", "new", "same", "same", "same"];
    const answers: (() => void)[] = [];
    const keys = new ApiKeys({
      async exchange() {
        const access_token = tokens.shift() ?? "";
        await new Promise<void>((resolve) => answers.push(resolve));
        return { access_token, expires_in_seconds: 600, principal, origin: { asOfMs: 0, via: [] } };
      },
      isVoid: () => false,
      ...{ ttlMs: 30_000, refusedTtlMs: 2_000, keysMax: 3, now: () => 0 },
    });
    const answer = async (): Promise<void> => {
      while (answers.length === 0) await new Promise((resolve) => setImmediate(resolve));
      answers.shift()?.();
    };
    const key = newKey();
    const first = keys.tokenFor(key);
    await answer();
    await first;
    keys.forgetTokens();
    const joined = keys.tokenFor(key);
    const renewed = keys.renewed(key, "old");
    await answer();
    await answer();
    expect([(await joined).token, (await renewed)?.token]).to.deep.equal(["old", "new"]);
    keys.forgetTokens();
    const before = keys.tokenFor(key);
    keys.forgetTokens();
    await answer();
    await before;
    const hopeless = keys.renewed(key, "same");
    await answer();
    await answer();
    expect(await hopeless).to.equal(undefined);
  });

  it("are asked for with the client's address, but for one that was good a moment ago", async () => {
    const outcome = { code: undefined as "RATE_LIMITED" | undefined };
    const { keys, state } = setup({
      answer: () => {
        if (outcome.code !== undefined) throw new MusterError(outcome.code);
      },
    });
    const key = newKey();
    await keys.tokenFor(key, "203.0.113.7");
    state.nowMs += 30_000;
    await keys.tokenFor(key, "203.0.113.7");
    keys.forgetTokens();
    await keys.tokenFor(key, "203.0.113.7");
    const addresses = state.asked.map(({ client_address }) => client_address);
    expect(addresses).to.deep.equal(["203.0.113.7", undefined, undefined]);
    outcome.code = "RATE_LIMITED";
    state.nowMs += 30_000;
    expect(await codeOf(() => keys.tokenFor(key, "203.0.113.7"))).to.equal("RATE_LIMITED");
    outcome.code = undefined;
    await keys.tokenFor(key, "203.0.113.7");
    expect(state.asked.at(-1)?.client_address, "still known, and no refusal is kept").to.equal(undefined);
  });

  it("are not refused for another address: nobody waits for what another one asked", async () => {
    let answered = 0;
    const { keys, state } = setup({
      answer: () => {
        const asking = state.asked[answered++];
        if (asking?.client_address === "198.51.100.1") throw new MusterError("RATE_LIMITED");
      },
    });
    const key = newKey();
    const codes = await Promise.all(
      ["198.51.100.1", "203.0.113.7", "203.0.113.7"].map((address) =>
        codeOf(() => keys.tokenFor(key, address)),
      ),
    );
    expect(codes).to.deep.equal(["RATE_LIMITED", "none", "none"]);
    expect(state.asked).to.have.length(2);
  });

  it("are asked for again as soon as what they were exchanged for is revoked", async () => {
    const { keys, state } = setup();
    const key = newKey();
    await keys.tokenFor(key);
    state.nowMs += 1;
    expect((await keys.tokenFor(key)).token).to.equal("token-1");
    state.revokedAtMs = state.nowMs;
    expect((await keys.tokenFor(key)).token).to.equal("token-2");
    expect((await keys.tokenFor(key)).token).to.equal("token-2");
  });

  it("are asked for once more where the answer was of before a revocation, and never answered with such a one", async () => {
    const late: { revoke?: () => void } = {};
    const { keys, state } = setup({ answer: () => late.revoke?.() });
    late.revoke = () => {
      // Heard of while the first answer is under way; what is asked next is of after it.
      state.revokedAtMs = 1_000_001;
      state.nowMs += 1;
    };
    expect((await keys.tokenFor(newKey())).token).to.equal("token-2");
    late.revoke = () => (state.revokedAtMs = state.nowMs + 1);
    expect(await codeOf(() => keys.tokenFor(newKey()))).to.equal("DEPENDENCY_UNAVAILABLE");
  });
});
