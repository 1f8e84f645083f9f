import { randomBytes, randomUUID } from "node:crypto";
import { expect } from "chai";
import { makeClaimTokens } from "./claim-tokens.ts";

describe("claim tokens", () => {
  const tokens = makeClaimTokens(randomBytes(32));
  const [command, nonce] = [randomUUID(), randomUUID()];

  it("are the same for the same nonce, and tell it", () => {
    const token = tokens.make(command, 1, nonce);
    expect(tokens.make(command, 1, nonce)).to.equal(token);
    expect(tokens.nonceOf(token, command, 1)).to.equal(nonce);
    expect(token.length).to.be.within(16, 128);
  });

  it("are of one command and attempt, and of one key", () => {
    const token = tokens.make(command, 1, nonce);
    expect(tokens.nonceOf(token, command, 2)).to.equal(undefined);
    expect(tokens.nonceOf(token, randomUUID(), 1)).to.equal(undefined);
    expect(makeClaimTokens(randomBytes(32)).nonceOf(token, command, 1)).to.equal(undefined);
  });

  it("cannot be altered or made up", () => {
    const bytes = Buffer.from(tokens.make(command, 1, nonce), "base64url");
    for (let at = 0; at < bytes.length; at++) {
      const altered = Buffer.from(bytes);
      altered[at] = (altered[at] ?? 0) ^ 1;
      expect(tokens.nonceOf(altered.toString("base64url"), command, 1)).to.equal(undefined);
    }
    for (const text of ["", "x", "x".repeat(64), randomBytes(48).toString("base64url")]) {
      expect(tokens.nonceOf(text, command, 1)).to.equal(undefined);
    }
  });
});
