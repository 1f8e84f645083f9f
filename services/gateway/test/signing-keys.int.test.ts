import { prepareEvent } from "@muster/broker/prepare";
import { uuidv7 } from "@muster/contracts/ids";
import { signingKeysChanged } from "@muster/contracts/signing-keys";
import { eventuallyHolds } from "@muster/testing/eventually";
import { expect } from "chai";
import { z } from "zod";
import { serveVmOps } from "./peers.ts";
import type { Live } from "./peers.ts";
import { setup } from "./setup.ts";
import type { Bundle } from "./setup.ts";

const keySet = z.object({ keys: z.array(z.object({ kid: z.string() })) });

describe("a signing key that is revoked", function () {
  this.timeout(60_000);
  let s: Bundle;
  const commands = new Map<string, Live>();
  before(async () => {
    s = await setup();
    await serveVmOps(s, commands);
    const id = uuidv7();
    const empty = { attempt: 1, stdout: Buffer.alloc(0), stderr: Buffer.alloc(0), complete: false };
    commands.set(id, { id, state: "running", ...empty });
  });
  after(() => s.close());

  const get = (path: string, bearer: string) =>
    fetch(`${s.url}${path}`, { headers: { authorization: `Bearer ${bearer}` } });
  const command = async (bearer: string) => {
    const [id] = [...commands.keys()];
    return (await get(`/api/v1/vm-ops/commands/${id}`, bearer)).status;
  };
  const whoami = async (bearer: string) => (await get("/api/v1/auth/whoami", bearer)).status;
  const published = async () => {
    const response = await fetch(`${s.url}/.well-known/jwks.json`);
    return keySet.parse(await response.json()).keys.map(({ kid }) => kid);
  };
  const tell = (revoked: string) =>
    s.peers.auth.publish(
      prepareEvent(
        signingKeysChanged,
        { active: "k2", published: ["k2", "k3"], revoked: [revoked], at: new Date().toISOString() },
        { context: { correlationId: "test" } },
      ),
    );

  it("costs no caller with an API key a request", async () => {
    const key = s.newKey("member");
    expect(await command(key)).to.equal(200);
    await tell(s.issuer.revoke());
    await eventuallyHolds(async () => {
      const statuses = await Promise.all(Array.from({ length: 20 }, () => command(key)));
      expect(new Set(statuses)).to.deep.equal(new Set([200]));
      expect(s.exchanged).to.have.length(2);
    });
    s.revokeKey(key);
    await tell(s.issuer.revoke());
    await eventuallyHolds(async () => expect(await command(key), "a key that auth refuses").to.equal(401));
  });

  it("is refused by the gateway and leaves its key set as soon as it is told", async () => {
    const token = await s.issuer.token("member");
    const before = await published();
    expect(await whoami(token)).to.equal(200);
    const gone = s.issuer.revoke();
    expect(before).to.include(gone);
    await tell(gone);
    await eventuallyHolds(async () => expect(await whoami(token)).to.equal(401));
    expect(await published()).to.deep.equal(s.issuer.keys.map(({ kid }) => kid));
    expect(await whoami(await s.issuer.token("member"))).to.equal(200);
  });

  it("may have been missed while the broker was away: the key set is fetched again when it is back", async () => {
    const token = await s.issuer.token("member");
    expect(await whoami(token)).to.equal(200);
    s.issuer.revoke();
    s.link.cut();
    await eventuallyHolds(async () => expect(await whoami(token)).to.equal(401));
  });
});
