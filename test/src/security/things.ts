import { randomUUID } from "node:crypto";
import type { Client } from "@muster/client/client";
import { uuid, uuidv7 } from "@muster/contracts/ids";
import { pathParameters, type Route } from "@muster/contracts/route";
import { wireSchemaOf, type JsonSchema } from "@muster/contracts/schema";
import { deadLettersExchange, vmQueue } from "@muster/contracts/topology";
import { openAdmin } from "@muster/database/admin";
import { eventually } from "@muster/testing/eventually";
import { samplesOf } from "@muster/testing/samples";
import type { Vhost } from "@muster/testing/vhost";
import fc from "fast-check";
import { pairWithoutKey } from "../agents/pairing.ts";

/** The id of one real thing of a tenant, by the collection that its path names. */
export type Things = Readonly<Record<string, string>>;

const trust = {
  issuer: "https://issuer.example.org",
  audience: "muster",
  roles_claim: "roles",
  role_map: [{ value: "operator", role: "member" as const }],
};

/** One of each kind that a path parameter can name, made as an operator makes it. */
export async function makeThings(
  client: Client,
  tenantId: string,
  vhost: Vhost,
  adminDatabaseUrl: string,
): Promise<Things> {
  const vm = (await client.registerVm({ body: { name: "a thing" } })).data.vm.vm_uuid;
  const namesake = (await client.registerVm({ body: { name: "a namesake" } })).data.vm.vm_uuid;
  const command = (await client.acceptCommand({ body: { vm_uuid: vm, action: "ping" } })).data.command.id;
  const email = `${uuidv7()}@example.org`;
  const user = (await client.createUser({ body: { email } })).data.user.id;
  const robot = (await client.createServiceAccount({ body: { name: "a robot" } })).data.service_account.id;
  const apiKey = (await client.createApiKey({ body: { name: "a key" } })).data.api_key.id;
  const issuer = (await client.createIssuer({ body: trust })).data.issuer.id;
  const agent = uuidv7();
  await pairWithoutKey(client, { agentId: agent, vmUuids: [vm] });
  const material = { value: "of a thing" };
  const secret = (await client.createSecret({ body: { name: "a_thing", material } })).data.secret.id;
  const binding = { secret_id: secret, target: { vm_uuid: vm }, as: { env: "THING" } };
  const bound = (await client.createBinding({ body: binding })).data.binding.id;
  const held = { tenantId, secret, command, vm, agent };
  const lease = await insertLease(adminDatabaseUrl, held);
  const rotation = await insertRotation(adminDatabaseUrl, { tenantId, secret });
  // As the broker hands over what an agent refused.
  const dead = { exchange: deadLettersExchange, routingKey: vmQueue(tenantId, vm), payload: "not ours" };
  await vhost.publish(dead);
  const letter = await eventually(async () => {
    const { data } = await client.listDeadLetters({ query: { vm_uuid: vm } });
    return data.dead_letters[0];
  }, 15_000);
  return {
    vms: vm,
    namesakes: namesake,
    commands: command,
    users: user,
    "service-accounts": robot,
    "api-keys": apiKey,
    issuers: issuer,
    agents: agent,
    "dead-letters": letter.id,
    secrets: secret,
    bindings: bound,
    leases: lease,
    rotations: rotation,
  };
}

/** As the secrets service leaves it when it has ended: one that runs would change while it is looked at. */
async function insertRotation(
  adminDatabaseUrl: string,
  { tenantId, secret }: { tenantId: string; secret: string },
): Promise<string> {
  const id = uuidv7();
  const admin = await openAdmin(adminDatabaseUrl);
  try {
    await admin.query(
      `INSERT INTO secrets.rotations (id, tenant_id, secret_id, state, from_version, to_version, rollback, requested_by,
         correlation_id, ended_at)
       VALUES ($1, $2, $3, 'succeeded', 1, 1, true, 'user:a-thing', 'a-thing', now())`,
      [id, tenantId, secret],
    );
  } finally {
    await admin.close();
  }
  return id;
}

/** As the secrets service writes it down when an agent is given a secret. */
async function insertLease(
  adminDatabaseUrl: string,
  o: { tenantId: string; secret: string; command: string; vm: string; agent: string },
): Promise<string> {
  const id = uuidv7();
  const admin = await openAdmin(adminDatabaseUrl);
  try {
    await admin.query(
      `INSERT INTO secrets.handovers (tenant_id, command_id, attempt, agent_id, nonce, recipient, given, expires_at)
       VALUES ($1, $2, 1, $3, $4, $5, '[]', now() + interval '1 hour')`,
      [o.tenantId, o.command, o.agent, randomUUID(), "A".repeat(43)],
    );
    await admin.query(
      `INSERT INTO secrets.leases (id, tenant_id, secret_id, version, command_id, attempt, vm_uuid, agent_id, expires_at)
       VALUES ($1, $2, $3, 1, $4, 1, $5, $6, now() + interval '1 hour')`,
      [id, o.tenantId, o.secret, o.command, o.vm, o.agent],
    );
  } finally {
    await admin.close();
  }
  return id;
}

/** What the fields of bodies and queries name that hold an id; a route's own before that of its name. */
const named: Readonly<Record<string, string>> = {
  // Whoever registers a VM by another's id has a VM of that id afterwards.
  "POST /api/v1/vms vm_uuid": "namesakes",
  vm_uuid: "vms",
  principal_id: "users",
  client_id: "service-accounts",
  agent_id: "agents",
  secret_id: "secrets",
  command_id: "commands",
};

/** One place of a request that names a thing. */
export interface Reference {
  readonly where: "params" | "query" | "body";
  readonly field: string;
  /** The collection that the thing is of. */
  readonly of: string;
}

/** Every place by which a request of this route names a thing. Throws where it is not known what it names. */
export function referencesOf(route: Route): Reference[] {
  const inPath = pathParameters(route.path).map((field) => {
    const words = route.path.split("/");
    return { where: "params" as const, field, of: words[words.indexOf(`{${field}}`) - 1] ?? "" };
  });
  const inside = (["query", "body"] as const).flatMap((where) => {
    const schema = route[where];
    const fields = schema === undefined ? [] : idFields(wireSchemaOf(schema));
    const nameOf = (field: string) => named[`${route.method} ${route.path} ${field}`] ?? named[field] ?? "";
    return fields.map((field) => ({ where, field, of: nameOf(field) }));
  });
  for (const { where, field, of } of [...inPath, ...inside]) {
    if (of === "") throw new Error(`${route.method} ${route.path}: what does ${where}.${field} name?`);
  }
  return [...inPath, ...inside];
}

const idPattern = wireSchemaOf(uuid)["pattern"];

function idFields(schema: JsonSchema): string[] {
  const properties = (schema["properties"] ?? {}) as Record<string, JsonSchema>;
  return Object.entries(properties).flatMap(([field, inner]) =>
    inner["pattern"] === idPattern ? [field] : [],
  );
}

export interface Shape {
  readonly params: Readonly<Record<string, string>>;
  readonly query: Readonly<Record<string, string>>;
  readonly body: Readonly<Record<string, unknown>> | undefined;
}

/** Fields that the contract leaves to another schema. */
const chosen: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  acceptCommand: { action: "ping" },
  createIssuer: { ...trust, audience: "another" },
  createPairingCode: { vm_uuids: [uuidv7()] },
  createSecret: { name: "another_thing", material: { value: "x" } },
  addSecretVersion: { material: { value: "x" } },
  rotateSecret: { generate: {} },
  createBinding: { secret_id: uuidv7(), target: { project_id: "things" }, as: { env: "X" } },
};

/** The least that fits the route, with ids of nothing. */
export function leastShape(key: string, route: Route): Shape {
  const params = Object.fromEntries(pathParameters(route.path).map((field) => [field, uuidv7()]));
  const { body: schema } = route;
  if (schema === undefined) return { params, query: {}, body: undefined };
  const samples = fc.sample(samplesOf(wireSchemaOf(schema)), { numRuns: 50, seed: 1 });
  const tried = [{}, ...samples].map((sample) => ({ ...(sample as object), ...chosen[key] }));
  const found = tried.find((sample) => schema.safeParse(sample).success);
  if (found === undefined) throw new Error(`${key}: no sample fits its body`);
  let body: Record<string, unknown> = found;
  for (const field of Object.keys(body).filter((one) => !(one in (chosen[key] ?? {})))) {
    const { [field]: _left, ...rest } = body;
    if (schema.safeParse(rest).success) body = rest;
  }
  return { params, query: {}, body };
}

/** What a field needs beside it to be looked at. */
const companions: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  client_id: { grant_type: "client_credentials", client_secret: `mk_abcdefghij_${"A".repeat(43)}` },
};

/** The same with this thing at that place. */
export function naming(shape: Shape, { where, field }: Reference, id: string): Shape {
  return { ...shape, [where]: { ...shape[where], ...companions[field], [field]: id } };
}

export function pathOf(route: Route, { params, query }: Shape): string {
  const path = route.path.replaceAll(/\{([^}]+)\}/g, (_all, name: string) => params[name] ?? "");
  const search = new URLSearchParams(query).toString();
  return search === "" ? path : `${path}?${search}`;
}
