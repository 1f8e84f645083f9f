import { openBroker } from "@muster/broker/broker";
import { readEnvelope } from "@muster/broker/read-envelope";
import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import { loginName } from "@muster/contracts/senders";
import { vmOpsRequests } from "@muster/contracts/vm-ops";
import { openLogger } from "@muster/telemetry/logger";
import { createMetrics } from "@muster/telemetry/metrics";
import { eventually, eventuallyHolds } from "@muster/testing/eventually";
import { expect } from "chai";
import { decodeJwt } from "jose";
import { serveVmOps } from "./peers.ts";
import { setup } from "./setup.ts";
import type { Bundle } from "./setup.ts";

const invalid = "INVALID_OR_MISSING_BEARER_TOKEN";

describe("what a gateway says on the mesh of its callers", function () {
  this.timeout(60_000);
  let s: Bundle;
  before(async () => {
    s = await setup();
  });
  after(() => s.close());

  const get = (path: string, bearer: string) =>
    fetch(`${s.url}${path}`, { headers: { authorization: `Bearer ${bearer}` } });
  const path = `/api/v1/vm-ops/commands/${uuidv7()}`;

  /** The identity in what a gateway asks vm-ops, and in what it asks auth. */
  async function captured(bearer: string): Promise<string | undefined> {
    const seen: (string | undefined)[] = [];
    const consumer = await s.peers.vmOps.consume("vm-ops.requests", { prefetch: 10 }, (delivery) => {
      seen.push(readEnvelope(delivery).identity);
      delivery.ack();
    });
    const gone = new AbortController();
    const headers = { authorization: `Bearer ${bearer}` };
    const asking = fetch(`${s.url}${path}`, { headers, signal: gone.signal }).catch(() => undefined);
    await eventually(() => seen.length === 1);
    gone.abort();
    await asking;
    await consumer.close();
    return seen[0];
  }

  it("is a token of its own for that request and owner, never the caller's", async () => {
    s.issuer.asOfMs = Date.UTC(2025, 0, 1);
    const access = await s.issuer.token("member");
    const identity = (await captured(access)) ?? "";
    expect(identity).to.not.equal(access);
    expect(decodeJwt(identity)).to.include({
      as_of: s.issuer.asOfMs,
      ...{ iss: "muster:gateway", aud: "muster:vm-ops", req: vmOpsRequests.getCommand.name },
      ...{ sub: "user:test", tenant_id: "acme" },
    });
    const byKey = (await captured(s.newKey("member"))) ?? "";
    expect(decodeJwt(byKey)).to.include({ req: vmOpsRequests.getCommand.name, sub: "user:test" });
  });

  it("opens nothing to whoever captures it: no door of HTTP, no other request, owner or asker", async () => {
    const access = await s.issuer.token("member");
    const identity = (await captured(access)) ?? "";
    expect((await get("/api/v1/auth/whoami", identity)).status).to.equal(401);
    const { consumer } = await serveVmOps(s, new Map());
    const logger = openLogger({ service: "thief", level: "silent" });
    const thief = async (login: string, contract: typeof vmOpsRequests.getCommand, token: string) => {
      const url = await s.vhost.urlAs(login);
      const metrics = createMetrics({ service: "thief" });
      const broker = await openBroker({ url, name: "thief", logger, metrics });
      const context = { correlationId: "c", identity: token };
      const code = await broker.request(contract, { command_id: uuidv7() }, context).then(
        () => "taken",
        (error: unknown) => (error instanceof MusterError ? error.code : String(error)),
      );
      await broker.close();
      return code;
    };
    const { getCommand, readOutput } = vmOpsRequests;
    const other = { ...getCommand, name: readOutput.name };
    expect(await thief(loginName("gateway"), getCommand, identity), "as it was").to.equal(
      "COMMAND_NOT_FOUND",
    );
    expect(await thief(loginName("gateway"), other, identity), "another request").to.equal(invalid);
    expect(await thief(loginName("gateway"), getCommand, access), "an access token").to.equal(invalid);
    expect(await thief(loginName("reliability"), getCommand, identity), "another asker").to.equal(invalid);
    expect(await thief(loginName("auth"), getCommand, identity), "nobody who may ask").to.equal("FORBIDDEN");
    const auth = s.verifierOf("auth").verify(identity, { name: getCommand.name, asker: "gateway" });
    expect(await auth.catch((error: unknown) => error)).to.include({ code: invalid });
    await consumer.close();
  });

  it("is believed again, with no caller refused, when an owner has lost its key", async () => {
    const { consumer } = await serveVmOps(s, new Map());
    const access = await s.issuer.token("member");
    s.meshKeys.list.length = 0;
    await s.forgetKeys();
    // Known to nobody: what is asked meanwhile is answered by a retriable 503 at worst.
    await eventuallyHolds(async () => {
      const { status } = await get(path, access);
      expect(status).to.be.oneOf([404, 503]);
      expect(status).to.equal(404);
    });
    await consumer.close();
  });
});

describe("a gateway whose key nobody knows", function () {
  this.timeout(60_000);

  it("is not ready, and refuses by a retriable code; then it is known and answers", async () => {
    const s = await setup({ serveAuth: false, env: { MUSTER_GATEWAY_AUTH_TIMEOUT_MS: "500" } });
    const { consumer } = await serveVmOps(s, new Map());
    expect(s.gateway.health()).to.include({ ok: false });
    const { exchangeApiKey, ...others } = s.authHandlers;
    const { getKeys, registerMeshKey, listTokenRevocations } = s.authContracts;
    const keyless = {
      ...others,
      registerMeshKey: () => Promise.reject(new MusterError("INTERNAL")),
    };
    const refusing = await s.peers.auth.serve(
      "auth",
      { getKeys, registerMeshKey, listTokenRevocations },
      keyless,
    );
    const bearer = await s.issuer.token("member");
    const ask = () =>
      fetch(`${s.url}/api/v1/vm-ops/commands/${uuidv7()}`, {
        headers: { authorization: `Bearer ${bearer}` },
      });
    const refused = await ask();
    expect(refused.status).to.equal(503);
    expect(refused.headers.get("retry-after")).to.match(/^[0-9]+$/);
    await refusing.close();
    await s.peers.auth.serve("auth", s.authContracts, { ...others, exchangeApiKey });
    await eventually(() => s.gateway.health().ok);
    expect((await ask()).status).to.equal(404);
    await consumer.close();
    await s.close();
  });
});
