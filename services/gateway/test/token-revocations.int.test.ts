import { prepareEvent } from "@muster/broker/prepare";
import { uuidv7 } from "@muster/contracts/ids";
import { tokensRevoked } from "@muster/contracts/token-revocations";
import type { TokenRevocation } from "@muster/contracts/token-revocations";
import { eventuallyHolds } from "@muster/testing/eventually";
import { expect } from "chai";
import { serveVmOps } from "./peers.ts";
import type { Live } from "./peers.ts";
import { setup } from "./setup.ts";
import type { Bundle } from "./setup.ts";

/** What the scripted auth gives is of `user:test` in `acme`, and a second old. */
function revocation(o: Partial<TokenRevocation> = {}): TokenRevocation {
  const times = { not_before: new Date().toISOString(), until: new Date(Date.now() + 600_000).toISOString() };
  return { tenant_id: "acme", subject: "user:test", reason: "account-disabled", ...times, ...o };
}

describe("tokens that are revoked, at the gateway", function () {
  this.timeout(60_000);
  let s: Bundle;
  const commands = new Map<string, Live>();
  const id = uuidv7();
  beforeEach(async () => {
    s = await setup();
    await serveVmOps(s, commands);
    const empty = { attempt: 1, stdout: Buffer.alloc(0), stderr: Buffer.alloc(0), complete: false };
    commands.set(id, { id, state: "running", ...empty });
  });
  afterEach(() => s.close());

  const get = async (path: string, bearer: string) => {
    const response = await fetch(`${s.url}${path}`, { headers: { authorization: `Bearer ${bearer}` } });
    const body = (await response.json()) as { error?: { code: string } };
    return body.error?.code ?? "none";
  };
  const whoami = (bearer: string) => get("/api/v1/auth/whoami", bearer);
  const command = (bearer: string) => get(`/api/v1/vm-ops/commands/${id}`, bearer);
  const tell = (one: TokenRevocation) =>
    s.peers.auth.publish(prepareEvent(tokensRevoked, one, { context: { correlationId: "test" } }));
  const invalid = "INVALID_OR_MISSING_BEARER_TOKEN";

  it("are refused as soon as it is told, and those of others are not", async () => {
    const [token, other] = [
      await s.issuer.token("member"),
      await s.issuer.token("member", { tenantId: "other" }),
    ];
    expect([await whoami(token), await whoami(other)]).to.deep.equal(["none", "none"]);
    await tell(revocation({ subject: null }));
    await eventuallyHolds(async () => expect(await whoami(token)).to.equal(invalid));
    expect(await whoami(other)).to.equal("none");
  });

  it("cost no caller with a good API key a request, and one whose key is refused is refused at once", async () => {
    const [good, ended] = [s.newKey("member"), s.newKey("member")];
    expect([await command(good), await command(ended)]).to.deep.equal(["none", "none"]);
    s.revokeKey(ended);
    // Of the past by more than what the scripted auth gives is old: what is exchanged again is good.
    await tell(revocation({ not_before: new Date(Date.now() - 60_000).toISOString() }));
    // What comes later is heard later.
    const watched = await s.issuer.token("member", { tenantId: "watched" });
    await tell(revocation({ tenant_id: "watched", subject: null }));
    await eventuallyHolds(async () => expect(await whoami(watched)).to.equal(invalid));
    expect([await command(good), await command(ended)], "nothing of theirs was revoked").to.deep.equal([
      "none",
      "none",
    ]);
    expect(s.exchanged).to.have.length(2);
    s.issuer.asOfMs = Date.now();
    await tell(revocation({ not_before: new Date(s.issuer.asOfMs).toISOString() }));
    await eventuallyHolds(async () => expect(await whoami(ended)).to.equal(invalid));
    const all = await Promise.all(Array.from({ length: 20 }, () => command(good)));
    expect(new Set(all)).to.deep.equal(new Set(["none"]));
    expect(s.exchanged.length, "each key once more, whatever comes").to.be.at.most(5);
  });

  it("cost no caller with an API key a request, where the owner hears of it first", async () => {
    const key = s.newKey("member");
    expect(await command(key)).to.equal("none");
    s.issuer.asOfMs = Date.now();
    s.ownersHear(revocation({ not_before: new Date(s.issuer.asOfMs).toISOString() }));
    const all = await Promise.all(Array.from({ length: 20 }, () => command(key)));
    expect(new Set(all)).to.deep.equal(new Set(["none"]));
    s.revokeKey(key);
    s.ownersHear(revocation({ not_before: new Date(Date.now() + 1_000).toISOString() }));
    expect(await command(key), "a key that auth refuses").to.equal(invalid);
  });

  it("may have been missed while the broker was away: the list is read when it is back", async () => {
    const token = await s.issuer.token("member");
    const key = s.newKey("member");
    expect([await whoami(token), await whoami(key)]).to.deep.equal(["none", "none"]);
    s.issuer.revocations.push(revocation());
    s.revokeKey(key);
    expect([await whoami(token), await whoami(key)], "nobody told it").to.deep.equal(["none", "none"]);
    s.link.cut();
    await eventuallyHolds(async () => expect(await whoami(token)).to.equal(invalid));
    await eventuallyHolds(async () => expect(await whoami(key)).to.equal(invalid));
  });

  it("are known to one that starts later, from its first request on", async () => {
    const token = await s.issuer.token("member");
    s.issuer.revocations.push(revocation());
    expect(await whoami(token)).to.equal(invalid);
    expect(await s.metrics.registry.getSingleMetricAsString("muster_auth_revocations")).to.match(/\} 1$/m);
  });
});
