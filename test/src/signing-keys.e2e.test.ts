import { openBroker, type Broker } from "@muster/broker/broker";
import { authRequests } from "@muster/contracts/auth";
import type { PayloadInputOf, RequestContract } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import { reliabilityRequests } from "@muster/contracts/reliability";
import { vmOpsRequests } from "@muster/contracts/vm-ops";
import { openLogger } from "@muster/telemetry/logger";
import { createMetrics } from "@muster/telemetry/metrics";
import { eventually, eventuallyHolds } from "@muster/testing/eventually";
import { loginName } from "@muster/contracts/senders";
import { expect } from "chai";
import { after, before, describe, it } from "mocha";
import { z } from "zod";
import { replicaOf } from "./outages/replicas.ts";
import { isFine, keepLooking, look, type Seen } from "./outages/watching.ts";
import type { ManagedProcess } from "./processes.ts";
import { openSystem, type System } from "./system.ts";

const kinds = ["accept", "list", "agents"] as const;
const tokenTtlSeconds = 60;
/** Enough that tokens are used to the end of their life, rotation after rotation. */
const rotations = 9;
const header = z.object({ kid: z.string() });
const tokenReply = z.object({
  data: z.object({ access_token: z.string(), expires_in_seconds: z.number() }),
});
const keySet = z.object({ keys: z.array(z.object({ kid: z.string() })) });

const kidOf = (token: string): string =>
  header.parse(JSON.parse(Buffer.from(token.split(".")[0] ?? "", "base64url").toString())).kid;

async function newToken(system: System): Promise<{ token: string; expiresInSeconds: number }> {
  const headers = { authorization: `Bearer ${system.apiKey}`, "content-type": "application/json" };
  const response = await fetch(`${system.gatewayUrl}/api/v1/auth/token`, {
    ...{ method: "POST", headers, body: "{}" },
  });
  const { data } = tokenReply.parse(await response.json());
  return { token: data.access_token, expiresInSeconds: data.expires_in_seconds };
}

async function keysOf(system: System) {
  const { data } = await system.client.listSigningKeys();
  const kidsOf = (status: string) =>
    data.signing_keys.filter((key) => key.kind === "access" && key.status === status).map(({ kid }) => kid);
  return { active: kidsOf("active")[0] ?? "", retired: kidsOf("retired"), rotatesAt: data.rotates_at };
}

/**
 * Asks all three services without a pause, by an API key and by tokens that are each used for as long as they live;
 * no request is sent twice.
 */
function load(system: System, vm: string, kids: Set<string>): () => Promise<Seen[]> {
  const stops: (() => Promise<Seen[]>)[] = [];
  for (const what of kinds) {
    const pauseMs = what === "accept" ? 100 : 10;
    stops.push(keepLooking(() => look(system.gatewayUrl, system.apiKey, what, vm), pauseMs));
    let held = { token: "", untilMs: 0 };
    const byToken = async (): Promise<Seen> => {
      if (performance.now() > held.untilMs) {
        const { token, expiresInSeconds } = await newToken(system);
        held = { token, untilMs: performance.now() + (expiresInSeconds - 5) * 1_000 };
        kids.add(kidOf(token));
      }
      return await look(system.gatewayUrl, held.token, what, vm);
    };
    stops.push(keepLooking(byToken, pauseMs));
  }
  return async () => (await Promise.all(stops.map((stop) => stop()))).flat();
}

const wordsOf = (seen: readonly Seen[]) => seen.map(({ what, status, code }) => `${what}: ${status} ${code}`);

describe("signing keys under load", function () {
  this.timeout(240_000);
  let system: System;
  let second: ManagedProcess;
  let vm: string;

  before(async () => {
    const aged = { MUSTER_KEYS_MAX_AGE_SECONDS: "2" };
    const auth = {
      ...aged,
      MUSTER_AUTH_TOKEN_TTL_SECONDS: String(tokenTtlSeconds),
      MUSTER_AUTH_AGENT_TOKEN_TTL_SECONDS: String(tokenTtlSeconds),
      MUSTER_AUTH_KEY_PUBLISH_AHEAD_SECONDS: "6",
      MUSTER_AUTH_KEY_ROTATION_SECONDS: "7",
      MUSTER_AUTH_KEY_LOOK_MS: "200",
    };
    const gateway = { ...aged, MUSTER_GATEWAY_API_KEY_TTL_MS: "1000" };
    // Nobody carries out what is accepted here: at most 20 a second for two minutes.
    const vmOps = { ...aged, MUSTER_VMOPS_VM_WAITING_MAX: "4000" };
    system = await openSystem({ env: { auth, gateway, "vm-ops": vmOps, reliability: aged } });
    second = await replicaOf(system, "auth");
    vm = await system.registerVm("rotating");
  });
  after(async () => {
    await second?.stop();
    await system?.close();
  });

  it("rotate on schedule with not one request refused, with two processes that sign", async () => {
    const kids = new Set<string>();
    const stop = load(system, vm, kids);
    const signed = new Set<string>();
    await eventually(async () => {
      signed.add((await keysOf(system)).active);
      signed.add(kidOf((await newToken(system)).token));
      return signed.size > rotations;
    }, 120_000);
    const seen = await stop();
    process.stdout.write(`      ${signed.size} keys signed, ${seen.length} requests\n`);
    expect(wordsOf(seen.filter(({ status }) => status < 200 || status >= 300))).to.deep.equal([]);
    for (const what of kinds) {
      expect(seen.filter((one) => one.what === what).length, what).to.be.greaterThan(50);
    }
    expect(kids.size, "tokens of more than one key were used").to.be.greaterThan(1);
  });
});

describe("a signing key that is revoked under load", function () {
  this.timeout(240_000);
  let system: System;
  let second: ManagedProcess;
  let mesh: Broker;
  let vm: string;

  before(async () => {
    // Key sets are used for ten minutes: whoever refuses sooner was told.
    system = await openSystem();
    second = await replicaOf(system, "auth");
    mesh = await openBroker({
      ...{ url: await system.vhost.urlAs(loginName("gateway")), name: "test" },
      logger: openLogger({ service: "test", level: "silent" }),
      metrics: createMetrics({ service: "test" }),
    });
    vm = await system.registerVm("revoking");
  });
  after(async () => {
    await mesh?.close();
    await second?.stop();
    await system?.close();
  });

  async function codeOnMesh<C extends RequestContract>(
    token: string,
    contract: C,
    payload: PayloadInputOf<C>,
  ): Promise<string> {
    const context = { correlationId: uuidv7(), identity: token };
    return await mesh.request(contract, payload, context).then(
      () => "accepted",
      (error: unknown) => (error instanceof MusterError ? error.code : String(error)),
    );
  }

  it("signs for nobody any more within moments, and costs no caller with an API key more than a retry", async () => {
    const { token } = await newToken(system);
    const revoked = kidOf(token);
    // Behind the gateway no access token is taken at all, whatever signed it.
    const owners: Record<string, () => Promise<string>> = {
      auth: () => codeOnMesh(token, authRequests.listTenants, { limit: 1 }),
      "vm-ops": () => codeOnMesh(token, vmOpsRequests.getVm, { vm_uuid: vm }),
      reliability: () => codeOnMesh(token, reliabilityRequests.listAgents, { limit: 1 }),
    };
    for (const [name, code] of Object.entries(owners)) {
      expect(await code(), name).to.equal("INVALID_OR_MISSING_BEARER_TOKEN");
    }
    const refuses = async () => (await look(system.gatewayUrl, token, "list")).status === 401;
    expect(await refuses()).to.equal(false);
    const stops = kinds.map((what) =>
      keepLooking(() => look(system.gatewayUrl, system.apiKey, what, vm), 20),
    );
    await eventuallyHolds(async () =>
      expect(await look(system.gatewayUrl, token, "agents")).to.include({ status: 200 }),
    );

    const sentMs = performance.now();
    await system.client.revokeSigningKey({ params: { kid: revoked } });
    const answeredMs = performance.now();
    await eventually(refuses, 30_000);
    const tookMs = Math.round(performance.now() - sentMs);
    const answered = Math.round(answeredMs - sentMs);
    process.stdout.write(`      answered after ${answered} ms; refused after ${tookMs} ms\n`);
    for (let n = 0; n < 200; n++) expect(await refuses()).to.equal(true);
    expect(kidOf((await newToken(system)).token)).to.equal((await keysOf(system)).active);
    const document = keySet.parse(await (await fetch(`${system.gatewayUrl}/.well-known/jwks.json`)).json());
    expect(document.keys.map(({ kid }) => kid)).to.not.include(revoked);
    const seen = (await Promise.all(stops.map((stop) => stop()))).flat();
    expect(wordsOf(seen.filter((one) => !isFine(one)))).to.deep.equal([]);
    expect(seen.length).to.be.greaterThan(20);
  });
});
