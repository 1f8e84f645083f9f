import { MusterError } from "@muster/contracts/errors";
import type { Jwks } from "@muster/contracts/auth";
import { expect } from "chai";
import { KeyDocument } from "./key-document.ts";

const jwk = (kid: string) => ({ kty: "OKP", kid, alg: "EdDSA", use: "sig" as const });

function setup() {
  const state = { nowMs: 0, kids: ["k1", "k2"], failing: false, fetches: 0 };
  const gate: { wait: Promise<void> } = { wait: Promise.resolve() };
  const document = new KeyDocument({
    async fetchKeys(): Promise<Jwks> {
      state.fetches += 1;
      const { kids, failing } = state;
      await gate.wait;
      if (failing) throw new MusterError("DEADLINE_EXCEEDED");
      return { keys: kids.map(jwk) };
    },
    ...{ maxAgeMs: 30_000, publicMaxAgeMs: 300_000, staleMaxMs: 600_000, now: () => state.nowMs },
  });
  const kids = async (): Promise<string[]> => {
    const { keys } = JSON.parse((await document.read()).text) as Jwks;
    return keys.map(({ kid }) => kid);
  };
  return { document, state, gate, kids };
}

describe("the published key set at the gateway", () => {
  it("is fetched once for many readers, and again after its time", async () => {
    const { state, kids } = setup();
    await Promise.all(Array.from({ length: 10 }, kids));
    state.nowMs += 29_999;
    await kids();
    expect(state.fetches).to.equal(1);
    state.nowMs += 1;
    await kids();
    expect(state.fetches).to.equal(2);
  });

  it("is fetched anew after a change, whatever is under way", async () => {
    const { document, state, gate, kids } = setup();
    let open: () => void = () => undefined;
    gate.wait = new Promise((resolve) => (open = resolve));
    const early = kids();
    state.kids = ["k2", "k3"];
    document.changed(["k1"]);
    const late = kids();
    open();
    expect(await early).to.deep.equal(["k1", "k2"]);
    expect(await late).to.deep.equal(["k2", "k3"]);
    expect(await kids()).to.deep.equal(["k2", "k3"]);
    expect(state.fetches).to.equal(2);
  });

  it("serves on while auth is away, without the keys that were revoked, and not for ever", async () => {
    const { document, state, kids } = setup();
    await kids();
    state.failing = true;
    document.changed(["k1"]);
    expect(await kids()).to.deep.equal(["k2"]);
    state.nowMs += 600_000;
    const error: unknown = await kids().catch((refused: unknown) => refused);
    expect(error).to.have.property("code", "DEPENDENCY_UNAVAILABLE");
  });
});
