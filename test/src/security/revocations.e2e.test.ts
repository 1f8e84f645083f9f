import { createClient } from "@muster/client/client";
import { authRequests } from "@muster/contracts/auth";
import type { PayloadInputOf, ReplyOf, RequestContract } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import { reliabilityRequests } from "@muster/contracts/reliability";
import { vmOpsRequests } from "@muster/contracts/vm-ops";
import { eventually } from "@muster/testing/eventually";
import { openFaultyLink, type FaultyLink } from "@muster/testing/faults";
import { expect } from "chai";
import { openMeshCaller, type MeshCaller } from "../mesh-caller.ts";
import { asAdmin } from "../model/facts.ts";
import { isFine, keepLooking, look, metricOf } from "../outages/watching.ts";
import { openSystem, type System } from "../system.ts";

const invalid = "INVALID_OR_MISSING_BEARER_TOKEN";

interface Bundle {
  readonly system: System;
  /** As a gateway that hears of no revocation and goes on asking for whom it has taken once. */
  readonly mesh: MeshCaller;
  /** Between the gateway and the broker. */
  readonly link: FaultyLink;
  readonly vm: string;
}

async function prepare(): Promise<Bundle> {
  let link: FaultyLink | undefined;
  const system = await openSystem({
    through: async (process, to, url) => {
      if (process !== "gateway" || to !== "broker") return url;
      link = await openFaultyLink(url);
      return link.url;
    },
  });
  const mesh = await openMeshCaller(system.vhost);
  if (link === undefined) throw new Error("the gateway has no link");
  return { system, mesh, link, vm: await system.registerVm("revoking") };
}

const onMesh = <C extends RequestContract>(
  { mesh }: Bundle,
  token: string,
  contract: C,
  payload: PayloadInputOf<C>,
): Promise<ReplyOf<C>> => mesh.askBy(token, contract, payload);

const codeOf = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => "none",
    (error: unknown) => {
      if (!(error instanceof MusterError)) return String(error);
      // A refusal of the asker's own token says nothing of whom it asks for.
      return error.details.some(({ path }) => path === "identity") ? "ASKER_REFUSED" : error.code;
    },
  );

const atGateway = async (b: Bundle, token: string): Promise<string> => {
  const seen = await look(b.system.gatewayUrl, token, "list");
  return seen.status === 200 ? "none" : seen.code;
};

/** What the gateway says to this token, and the services behind it to a gateway that goes on asking for its holder. */
async function said(b: Bundle, token: string): Promise<Record<string, string>> {
  const [gateway, auth, vmOps, reliability] = await Promise.all([
    atGateway(b, token),
    codeOf(onMesh(b, token, authRequests.listTenants, { limit: 1 })),
    codeOf(onMesh(b, token, vmOpsRequests.getVm, { vm_uuid: b.vm })),
    codeOf(onMesh(b, token, reliabilityRequests.listAgents, { limit: 1 })),
  ]);
  return { gateway, auth, "vm-ops": vmOps, reliability };
}

const everybody = (code: string) => ({ gateway: code, auth: code, "vm-ops": code, reliability: code });

/** A service account with an API key, and an access token that was exchanged for it. */
async function robotOf(b: Bundle) {
  const { client, gatewayUrl } = b.system;
  const made = await client.createServiceAccount({ body: { name: "robot", role: "admin" } });
  const { id } = made.data.service_account;
  const { data } = await client.createApiKey({ body: { name: "robot", principal_id: id } });
  const secret = data.secret ?? "";
  const own = createClient({ baseUrl: gatewayUrl, token: secret });
  const exchange = async () => (await own.exchangeApiKey({ body: {} })).data.access_token;
  return { id, keyId: data.api_key.id, secret, exchange, token: await exchange() };
}

async function ownerToken(b: Bundle): Promise<string> {
  const own = createClient({ baseUrl: b.system.gatewayUrl, token: b.system.apiKey });
  return (await own.exchangeApiKey({ body: {} })).data.access_token;
}

describe("access tokens end with what they were made from", function () {
  this.timeout(120_000);
  let b: Bundle;
  before(async () => (b = await prepare()));
  after(async () => {
    await b?.mesh.close();
    await b?.system.close();
    await b?.link.close();
  });

  const refusedByAll = async (token: string): Promise<void> => {
    const sinceMs = performance.now();
    await eventually(
      async () => Object.values(await said(b, token)).every((code) => code === invalid),
      15_000,
    );
    process.stdout.write(`      refused by all after ${Math.round(performance.now() - sinceMs)} ms\n`);
    for (let n = 0; n < 5; n++) expect(await said(b, token)).to.deep.equal(everybody(invalid));
  };

  it("in every service within seconds when the account is disabled, and nobody else notices", async () => {
    const robot = await robotOf(b);
    const stop = keepLooking(() => look(b.system.gatewayUrl, b.system.apiKey, "list"), 20);
    expect(await said(b, robot.token)).to.deep.equal(everybody("none"));
    expect(await atGateway(b, robot.secret)).to.equal("none");
    await b.system.client.disableServiceAccount({ params: { id: robot.id } });
    await refusedByAll(robot.token);
    expect(await atGateway(b, robot.secret), "its API key").to.equal(invalid);
    expect((await stop()).filter((seen) => !isFine(seen))).to.deep.equal([]);
    expect(await metricOf(b.system.services.gateway, "muster_auth_revocations")).to.be.greaterThan(0);

    await asAdmin(b.system.adminDatabaseUrl, (admin) =>
      admin.run(`UPDATE auth.principals SET disabled_at = NULL WHERE id = '${robot.id}'`),
    );
    await eventually(async () => (await atGateway(b, robot.secret)) === "none");
    expect(await said(b, await robot.exchange())).to.deep.equal(everybody("none"));
    expect(await said(b, robot.token), "the one from before").to.deep.equal(everybody(invalid));
  });

  it("when a role is lowered; the next token has the new one", async () => {
    const robot = await robotOf(b);
    const change = { role: "member" } as const;
    await b.system.client.updateServiceAccount({ params: { id: robot.id }, body: change });
    const again = await robot.exchange();
    expect(await said(b, again), "at once").to.deep.equal(everybody("none"));
    await refusedByAll(robot.token);
    expect(await codeOf(onMesh(b, again, authRequests.listUsers, { limit: 1 }))).to.equal("FORBIDDEN");
  });

  it("when an API key is revoked, and those of the holder's other keys live on", async () => {
    const robot = await robotOf(b);
    const { data } = await b.system.client.createApiKey({ body: { name: "other", principal_id: robot.id } });
    const other = createClient({ baseUrl: b.system.gatewayUrl, token: data.secret ?? "" });
    const { access_token: kept } = (await other.exchangeApiKey({ body: {} })).data;
    await b.system.client.revokeApiKey({ params: { id: robot.keyId } });
    await refusedByAll(robot.token);
    expect(await said(b, kept)).to.deep.equal(everybody("none"));
  });

  it("when an operator suspends the tenant by a statement of his own", async () => {
    const key = await b.system.makeTenant("suspended", "owner@suspended.local");
    const own = createClient({ baseUrl: b.system.gatewayUrl, token: key });
    const { access_token: token } = (await own.exchangeApiKey({ body: {} })).data;
    expect((await said(b, token))["gateway"]).to.equal("none");
    await asAdmin(b.system.adminDatabaseUrl, (admin) =>
      admin.run("UPDATE auth.tenants SET state = 'suspended' WHERE tenant_id = 'suspended'"),
    );
    await refusedByAll(token);
    expect(await atGateway(b, key)).to.equal(invalid);
  });

  it("at a gateway that was cut off from the broker when it happened, once it is back", async () => {
    const robot = await robotOf(b);
    const owner = await ownerToken(b);
    const whoami = async (): Promise<string> => {
      const headers = { authorization: `Bearer ${robot.token}` };
      const response = await fetch(`${b.system.gatewayUrl}/api/v1/auth/whoami`, { headers });
      return response.ok ? "none" : ((await response.json()) as { error: { code: string } }).error.code;
    };
    expect(await whoami()).to.equal("none");
    b.link.refuse();
    b.link.cut();
    await onMesh(b, owner, authRequests.disableServiceAccount, { id: robot.id });
    await eventually(
      async () => (await codeOf(onMesh(b, robot.token, vmOpsRequests.getVm, { vm_uuid: b.vm }))) === invalid,
    );
    expect(await whoami(), "it cannot know").to.equal("none");
    b.link.heal();
    await eventually(async () => (await whoami()) === invalid, 15_000);
    await refusedByAll(robot.token);
  });

  it("at a gateway that starts later, from its first request on", async () => {
    const robot = await robotOf(b);
    const owner = await ownerToken(b);
    await b.system.services.gateway.stop();
    await onMesh(b, owner, authRequests.disableServiceAccount, { id: robot.id });
    b.system.services.gateway.start();
    await b.system.services.gateway.ready();
    expect(await atGateway(b, robot.token)).to.equal(invalid);
    expect(await atGateway(b, b.system.apiKey)).to.equal("none");
  });
});
