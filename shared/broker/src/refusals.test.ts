import { expect } from "chai";
import { isFinal, placeOf, refusalOf } from "./refusals.ts";

describe("a refused connection", () => {
  const table = [
    [
      'Handshake terminated by server: 403 (ACCESS-REFUSED) with message "ACCESS_REFUSED - Login was refused"',
      "credentials",
    ],
    ["Expected ConnectionOpenOk; got <ConnectionClose channel:0>", "vhost"],
    ['Connection closed: 530 (NOT-ALLOWED) with message "NOT_ALLOWED - vhost x not found"', "vhost"],
    ["530 NOT_ALLOWED - access to vhost 'x' refused: connection limit (5) is reached", "limit"],
    ["connect ECONNREFUSED 127.0.0.1:5672", "unreachable"],
    ["connect ETIMEDOUT", "unreachable"],
  ] as const;
  for (const [text, kind] of table) {
    it(`is ${kind} for: ${text.slice(0, 60)}`, () => {
      const refusal = refusalOf(new Error(text), "host:5672/vhost");
      expect(refusal.kind).to.equal(kind);
      expect(refusal.message).to.include("host:5672/vhost");
      expect(isFinal(refusal)).to.equal(kind === "credentials" || kind === "vhost");
    });
  }

  it("names the place without user or password", () => {
    expect(placeOf("amqp://user:secret@host:5671/v")).to.equal("host:5671/v");
    expect(placeOf("not a url")).to.equal("an invalid AMQP URL");
  });
});
