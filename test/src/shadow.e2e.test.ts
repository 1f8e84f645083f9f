import { after, before, describe, it } from "mocha";
import { expect } from "chai";
import fc from "fast-check";
import { createClient } from "@muster/client/client";
import { uuidv7 } from "@muster/contracts/ids";
import { pathParameters } from "@muster/contracts/route";
import type { Route } from "@muster/contracts/route";
import { routes } from "@muster/contracts/routes";
import { wireSchemaOf } from "@muster/contracts/schema";
import { openAdmin } from "@muster/database/admin";
import { eventuallyHolds } from "@muster/testing/eventually";
import { samplesOf } from "@muster/testing/samples";
import { loginName } from "@muster/contracts/senders";
import { z } from "zod";
import { ask, shell } from "./following.ts";
import { addSigningKey, type SignedClaims } from "./own-signing-key.ts";
import { freePort, ManagedProcess } from "./processes.ts";
import { openSystem, serviceNames, type System } from "./system.ts";

const declared: Route[] = Object.values(routes);
const shadowEnv = { AUTH_MODE: "shadow", MUSTER_KEYS_MAX_AGE_SECONDS: "1" };
const refusal = z.object({ error: z.object({ code: z.string() }) });

/** A thing of each kind that the first tenant has, by a part of the path that names it. */
type Things = readonly (readonly [inPath: string, id: string])[];

interface Bundle {
  readonly system: System;
  /** A gateway on the same system that enforces. */
  readonly enforced: ManagedProcess;
  readonly enforcedUrl: string;
  readonly things: Things;
  readonly sign: (claims: SignedClaims) => string;
  readonly first: SignedClaims;
  readonly second: SignedClaims;
}

async function makeThings(system: System): Promise<Things> {
  const { client } = system;
  const vm = await system.registerVm();
  const command = await ask(client, shell(vm, "true"));
  await eventuallyHolds(async () => {
    const { data } = await client.getCommand({ params: { id: command } });
    expect(data.command.state).to.equal("dispatched");
  }, 30_000);
  const user = (await client.createUser({ body: { email: "somebody@example.org" } })).data.user.id;
  const account = (await client.createServiceAccount({ body: { name: "robot" } })).data.service_account.id;
  const key = (await client.createApiKey({ body: { name: "key" } })).data.api_key.id;
  const signing = (await client.listSigningKeys()).data.signing_keys[0]?.kid ?? "";
  return [
    ["/vms", vm],
    ["/commands", command],
    ["/users", user],
    ["/service-accounts", account],
    ["/api-keys", key],
    ["/signing-keys", signing],
  ];
}

/** The shadow tenant has a VM of the same id: what is meant for one must not reach the other. */
async function shareVm(system: System): Promise<void> {
  const admin = await openAdmin(system.adminDatabaseUrl);
  await admin.query(
    `INSERT INTO vm_ops.vms
     SELECT (jsonb_populate_record(v, '{"tenant_id": "shadow-tenant"}')).* FROM vm_ops.vms v`,
  );
  await admin.close();
}

async function prepare(): Promise<Bundle> {
  const env = Object.fromEntries(serviceNames.map((name) => [name, shadowEnv]));
  const system = await openSystem({ env });
  const other = await system.makeTenant("second", "owner@second.local");
  const things = await makeThings(system);
  const enforcedPort = await freePort();
  const enforced = new ManagedProcess({
    name: "gateway-enforced",
    entry: "services/gateway/dist/src/main.js",
    env: {
      MUSTER_AMQP_URL: await system.vhost.urlAs(loginName("gateway")),
      MUSTER_GATEWAY_PORT: String(enforcedPort),
      MUSTER_KEYS_MAX_AGE_SECONDS: "1",
    },
    logFolder: system.folder,
    internalPort: await freePort(),
  });
  enforced.start();
  await enforced.ready();
  await shareVm(system);
  const sign = await addSigningKey(system.adminDatabaseUrl);
  const claimsOf = async (token: string): Promise<SignedClaims> => {
    const { data } = await createClient({ baseUrl: system.gatewayUrl, token }).whoami();
    return { tenant_id: data.tenant_id, sub: data.subject, roles: data.roles };
  };
  const [first, second] = [await claimsOf(system.apiKey), await claimsOf(other)];
  const enforcedUrl = `http://127.0.0.1:${enforcedPort}`;
  for (const url of [enforcedUrl, system.gatewayUrl]) {
    // The token must be good but for what makes it bad: its key is known to all.
    await eventuallyHolds(async () => {
      const headers = { authorization: `Bearer ${sign(first)}` };
      const response = await fetch(`${url}${routes.listVms.path}`, { headers });
      expect(await response.text()).to.include(things[0]![1]);
    }, 20_000);
  }
  return { system, enforced, enforcedUrl, things, sign, first, second };
}

/** The path of a route with the first tenant's thing in it. */
function pathTo(route: Route, things: Things): string {
  const id = things.find(([inPath]) => route.path.includes(`${inPath}/{`))?.[1] ?? uuidv7();
  return pathParameters(route.path).reduce((text, name) => text.replace(`{${name}}`, id), route.path);
}

/** A body that fits a route; the open one that takes a bearer takes none of the credentials in a body beside it. */
function bodyFor(route: Route, things: Things): string | undefined {
  if (route.body === undefined || route.access === "credentials") return undefined;
  if (route === routes.acceptCommand) return JSON.stringify(shell(things[0]![1], "true"));
  const [sample] = fc.sample(samplesOf(wireSchemaOf(route.body)), { numRuns: 1, seed: 7 });
  return JSON.stringify(sample);
}

async function send(url: string, route: Route, things: Things, bearer: string | undefined) {
  const body = bodyFor(route, things);
  const headers: Record<string, string> = {};
  if (body !== undefined) headers["content-type"] = "application/json";
  if (bearer !== undefined) headers["authorization"] = `Bearer ${bearer}`;
  const { method } = route;
  const response = await fetch(`${url}${pathTo(route, things)}`, {
    method,
    headers,
    ...(body === undefined ? {} : { body }),
  });
  const parsed = refusal.safeParse(await response.json().catch(() => undefined));
  return { status: response.status, code: parsed.success ? parsed.data.error.code : "none" };
}

/** Every row of every real tenant, in every schema. */
async function realRows(system: System): Promise<string[]> {
  const admin = await openAdmin(system.adminDatabaseUrl);
  const tables = await admin.query<{ name: string }>(
    `SELECT format('%I.%I', table_schema, table_name) AS name FROM information_schema.columns
      WHERE column_name = 'tenant_id' AND table_schema IN ('auth', 'vm_ops', 'reliability') ORDER BY 1`,
  );
  const rows: string[] = [];
  for (const { name } of tables) {
    const found = await admin.query<{ row: string }>(
      `SELECT to_jsonb(t)::text AS row FROM ${name} t WHERE tenant_id NOT LIKE 'shadow-%' ORDER BY 1`,
    );
    rows.push(...found.map(({ row }) => `${name} ${row}`));
  }
  await admin.close();
  return rows;
}

/** What shadow mode let through so far: `<code> <method> <path>` to how often. */
async function shadowed(process: ManagedProcess): Promise<Map<string, number>> {
  const text = await (await fetch(`${process.internalUrl}/metrics`)).text();
  const lines = text.matchAll(/^muster_auth_shadow_total\{code="(\w+)",route="([^"]*)",.*\} (\d+)$/gm);
  return new Map([...lines].map(([, code, route, count]) => [`${code} ${route}`, Number(count)]));
}

describe("a fleet in shadow mode", function () {
  this.timeout(120_000);
  let bundle: Bundle;
  before(async () => (bundle = await prepare()));
  after(async () => {
    await bundle?.enforced.stop();
    await bundle?.system.close();
  });

  it("acts for bad and missing tokens in the shadow tenant alone, on every route, and counts what enforced refuses", async () => {
    const { system, enforcedUrl, things, sign, first } = bundle;
    const good = sign(first);
    const bad = [
      undefined,
      "garbage",
      `mk_abcdefghij_${"a".repeat(43)}`,
      sign({ ...first, lifeSeconds: -60 }),
      sign({ ...first, aud: "elsewhere" }),
      `${good.slice(0, -8)}AAAAAAAA`,
      sign({ ...first, tenant_id: "shadow-tenant" }),
      sign({ ...first, sub: "shadow" }),
    ];
    const before = await realRows(system);
    const countedBefore = await shadowed(system.services.gateway);
    const refused = new Map<string, number>();
    for (const route of declared) {
      for (const bearer of bad) {
        await send(system.gatewayUrl, route, things, bearer);
        const { status, code } = await send(enforcedUrl, route, things, bearer);
        if (route.access === "public") continue;
        expect(status, `${route.method} ${route.path} ${bearer}`).to.equal(401);
        const cell = `${code} ${route.method} ${route.path}`;
        refused.set(cell, (refused.get(cell) ?? 0) + 1);
      }
    }
    expect(await realRows(system)).to.deep.equal(before);
    const counted = [...(await shadowed(system.services.gateway))].map(
      ([cell, count]) => [cell, count - (countedBefore.get(cell) ?? 0)] as const,
    );
    expect(new Map(counted)).to.deep.equal(refused);
    const listed = await fetch(`${system.gatewayUrl}${routes.listCommands.path}`);
    const { data } = z.object({ data: routes.listCommands.reply }).parse(await listed.json());
    expect(data.commands, "what shadows dispatched is the shadow tenant's").to.have.length(bad.length);
    const asked = await shadowed(system.services["vm-ops"]);
    expect(asked.get("MISSING_BEARER_TOKEN vm-ops.command.accept.v1")).to.equal(bad.length);
  });

  it("gives a good token of another tenant no more than enforced does, and counts nothing", async () => {
    const { system, enforcedUrl, things, sign, second } = bundle;
    const before = await realRows(system);
    const countedBefore = await shadowed(system.services.gateway);
    for (const route of declared) {
      if (pathParameters(route.path).length === 0) continue;
      const answers = [
        await send(system.gatewayUrl, route, things, sign(second)),
        await send(enforcedUrl, route, things, sign(second)),
      ];
      expect(answers[0], `${route.method} ${route.path}`).to.deep.equal(answers[1]);
      expect(answers[0]?.status, `${route.method} ${route.path}`).to.be.oneOf([400, 403, 404]);
    }
    expect(await realRows(system)).to.deep.equal(before);
    expect(await shadowed(system.services.gateway)).to.deep.equal(countedBefore);
  });

  it("is told from a process that enforces, by readiness, metrics and log", async () => {
    const { system, enforced } = bundle;
    const modes = serviceNames.map((name) => [system.services[name], "shadow"] as const);
    for (const [process, mode] of [...modes, [enforced, "enforced"] as const]) {
      const readiness: unknown = await (await fetch(`${process.internalUrl}/readyz`)).json();
      const detail = { mode, shadow_tenant_id: "shadow-tenant" };
      expect(readiness).to.have.deep.nested.property("dependencies.auth mode", { ok: true, detail });
      const metrics = await (await fetch(`${process.internalUrl}/metrics`)).text();
      expect(metrics).to.match(new RegExp(`^muster_auth_mode\\{mode="${mode}",.*\\} 1$`, "m"));
      expect(await system.logOf(process.name)).to.include(`AUTH_MODE=${mode}`);
    }
  });
});
