import { randomBytes } from "node:crypto";
import { createClient, type Client } from "@muster/client/client";
import { errorCodes, wireError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import { roles, type Role } from "@muster/contracts/principal";
import { codesOf, type Route, type RouteAccess } from "@muster/contracts/route";
import { routes } from "@muster/contracts/routes";
import { expect } from "chai";
import { after, before, describe, it } from "mocha";
import { z } from "zod";
import { ask, ended, shell } from "../following.ts";
import { openSystem, type System } from "../system.ts";
import { afterRevocation, brokenKeys, forged, malformed, type NoIdentity } from "./identities.ts";
import { quietLogs } from "./quiet.ts";
import { openSender, type Answer, type Sender } from "./sending.ts";
import type { Signer } from "./signer.ts";
import {
  leastShape,
  makeThings,
  naming,
  pathOf,
  referencesOf,
  type Reference,
  type Shape,
  type Things,
} from "./things.ts";

const all = Object.entries(routes) as [string, Route][];
const refusal = z.strictObject({ success: z.literal(false), error: wireError.strict() });
const ofOneRequest = ["x-request-id", "x-correlation-id", "traceparent", "date"];

interface Side {
  readonly tenantId: string;
  readonly client: Client;
  readonly apiKey: string;
  readonly things: Things;
  /** What else of it nobody may hear of. */
  readonly more: readonly string[];
}

interface World {
  readonly system: System;
  readonly sender: Sender;
  readonly nobodies: Readonly<Record<string, NoIdentity>>;
  readonly signer: Signer;
  readonly mine: Side;
  readonly theirs: Side;
}

async function prepare(): Promise<World> {
  const sealingKey = randomBytes(32);
  const auth = { MUSTER_AUTH_KEY_ENCRYPTION_KEY: sealingKey.toString("base64") };
  const system = await openSystem({ env: quietLogs({ auth }) });
  const sender = openSender(system.gatewayUrl);
  const { client, tenantId, apiKey } = system;
  const otherKey = await system.makeTenant("second", "owner@second.local");
  const other = createClient({ baseUrl: system.gatewayUrl, token: otherKey });
  const things = await makeThings(client, tenantId, system.vhost, system.adminDatabaseUrl);
  const agent = await system.startAgent({ vmUuids: [things["vms"] ?? ""] });
  const ran = await ask(client, shell(things["vms"] ?? "", "echo private"));
  await ended(client, ran);
  await ended(client, things["commands"] ?? "");
  const { subject } = (await client.whoami()).data;
  const whose = { sub: subject, tenant_id: tenantId, roles: ["owner"] };
  const { refused, signer } = await afterRevocation(system, sealingKey, whose);
  // Whoever gets through to revoke a key spoils nothing but his own test.
  const next = (await client.listSigningKeys()).data.signing_keys.find(({ status }) => status === "next");
  const nobodies = {
    ...malformed(signer.token()),
    ...forged(signer, whose),
    ...refused,
    ...(await brokenKeys(system)),
  };
  const mine = {
    ...{ tenantId, client, apiKey, more: [agent.agentId, ran, subject.split(":")[1] ?? ""] },
    things: { ...things, "signing-keys": next?.kid ?? "" },
  };
  const otherThings = await makeThings(other, "second", system.vhost, system.adminDatabaseUrl);
  const theirs = { tenantId: "second", client: other, apiKey: otherKey, things: otherThings, more: [] };
  return { system, sender, nobodies, signer, mine, theirs };
}

/** Two requests that have nothing in common: of things that are there, and of nothing, by what fits no schema. */
function shapesFor(key: string, route: Route, things: Things): Shape[] {
  const least = leastShape(key, route);
  const withThing = (shape: Shape, reference: Reference) =>
    naming(shape, reference, things[reference.of] ?? "");
  const misfit = {
    ...least,
    query: { nothing: "of ours" },
    ...(route.body && { body: { nothing: "of ours" } }),
  };
  return [referencesOf(route).reduce(withThing, least), misfit];
}

function sent(route: Route, shape: Shape, headers: NoIdentity["headers"]) {
  const path = pathOf(route, shape);
  if (shape.body === undefined) return { method: route.method, path, headers };
  const json = { ...headers, "content-type": "application/json" };
  return { method: route.method, path, headers: json, body: JSON.stringify(shape.body) };
}

/** All that an answer tells, but for what is of this one request, made now, or was asked with. */
function told(answer: Answer): string {
  const headers = Object.entries(answer.headers).filter(([name]) => !ofOneRequest.includes(name));
  return JSON.stringify([answer.status, headers.sort(), answer.text])
    .replaceAll(/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/g, "<id>")
    .replaceAll(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, "<time>")
    .replaceAll(/mp_[A-Za-z0-9_-]{43}/g, "<code>");
}

/** Status and code, where they belong together and the envelope is whole. */
function cellOf(answer: Answer): string {
  if (answer.status < 400) return String(answer.status);
  const { error } = refusal.parse(JSON.parse(answer.text));
  expect(errorCodes[error.code].status, error.code).to.equal(answer.status);
  return `${answer.status} ${error.code}`;
}

/** What a route needs of its caller. A new kind of access does not compile until it is said here. */
function neededRole(access: RouteAccess): Role | "any" | "none" {
  switch (access) {
    case "public":
    case "credentials":
      return "none";
    case "any":
    case "member":
    case "admin":
    case "owner":
      return access;
  }
}

/** Beside a role. */
const neededPermissions: Readonly<Record<string, readonly string[]>> = { readSecret: ["secrets.read"] };

describe("every route", function () {
  this.timeout(120_000);
  let world: World;
  let found: string;

  /** Everything that the owner reads of one thing after another. */
  async function state(): Promise<string> {
    const { mine, sender, signer } = world;
    const byKey = { authorization: `Bearer ${mine.apiKey}` };
    const permitted = (permissions: readonly string[]) => ({
      authorization: `Bearer ${signer.token({ claims: { permissions } })}`,
    });
    const texts: string[] = [];
    for (const [key, route] of all.filter(([, one]) => one.method === "GET" && one.params !== undefined)) {
      const named = referencesOf(route).filter(({ where }) => where === "params");
      const shape = named.reduce(
        (one, reference) => naming(one, reference, mine.things[reference.of] ?? ""),
        leastShape(key, route),
      );
      const permissions = neededPermissions[key];
      const headers = permissions === undefined ? byKey : permitted(permissions);
      const { status, text } = await sender.send(sent(route, shape, headers));
      expect(status, key).to.equal(200);
      texts.push(text.replaceAll(/"last_seen_at":"[^"]*"/g, ""));
    }
    return texts.join("\n");
  }

  before(async () => {
    world = await prepare();
    found = await state();
  });
  after(async () => {
    world?.sender.close();
    await world?.system.close();
  });

  it("names only things of which there is one to try it with", () => {
    for (const [key, route] of all) {
      for (const { of } of referencesOf(route)) expect(world.mine.things, key).to.have.property(of);
    }
  });

  for (const [key, route] of all.filter(([, { access }]) => access !== "public")) {
    it(`${key}: refuses whoever is nobody, the same whatever is asked`, async () => {
      const { mine, sender, nobodies } = world;
      const cells: Record<string, string> = {};
      for (const [who, { headers }] of Object.entries(nobodies)) {
        // What a route that looks at credentials itself makes of its body is for others to prove.
        const isOpen = route.access === "credentials";
        const tried = isOpen ? [leastShape(key, route)] : shapesFor(key, route, mine.things);
        const answers = await Promise.all(tried.map((shape) => sender.send(sent(route, shape, headers))));
        expect(new Set(answers.map(told)).size, who).to.equal(1);
        expect(answers[0]!.headers["www-authenticate"], who).to.equal('Bearer realm="muster"');
        cells[who] = cellOf(answers[0]!);
      }
      const wanted = Object.entries(nobodies).map(([who, { code }]) => [who, `401 ${code}`]);
      expect(cells).to.deep.equal(Object.fromEntries(wanted));
    });
  }

  for (const [key, route] of all.filter(([, { access }]) => access === "public")) {
    it(`${key}: is public: who asks makes no difference`, async () => {
      const { sender, nobodies } = world;
      const shape = leastShape(key, route);
      const asked = Object.values(nobodies).map(({ headers }) => sender.send(sent(route, shape, headers)));
      const answers = new Set((await Promise.all(asked)).map(told));
      expect([...answers]).to.have.length(1);
    });
  }

  for (const [key, route] of all.filter(([, { access }]) => access !== "public")) {
    const needed = neededRole(route.access);
    if (needed === "none") continue;
    const rank = needed === "any" ? -1 : roles.indexOf(needed);

    it(`${key}: needs ${needed}: less is refused by name, and so much is let through`, async () => {
      const { mine, sender, signer } = world;
      const as = (held: readonly Role[]) => ({
        authorization: `Bearer ${signer.token({ claims: { roles: held, permissions: neededPermissions[key] ?? [] } })}`,
      });
      const lower: Role[][] = rank < 0 ? [] : [[], ...roles.slice(0, rank).map((role) => [role])];
      for (const held of lower) {
        const shapes = shapesFor(key, route, mine.things);
        const answers = await Promise.all(shapes.map((shape) => sender.send(sent(route, shape, as(held)))));
        expect(new Set(answers.map(told)).size, held.join()).to.equal(1);
        const { error } = refusal.parse(JSON.parse(answers[0]!.text));
        expect(cellOf(answers[0]!)).to.equal("403 FORBIDDEN");
        expect(error.details).to.deep.equal([
          { path: "principal.roles", message: `role ${needed} is needed` },
        ]);
      }
      const enough = needed === "any" ? [] : [needed];
      const answer = await sender.send(sent(route, leastShape(key, route), as(enough)));
      expect(answer.status, answer.text).to.be.lessThan(500).and.not.oneOf([400, 401, 403]);
    });
  }

  for (const from of ["mine", "theirs"] as const) {
    const whose = from === "mine" ? "the operator's tenant" : "another tenant, to the operator";
    for (const [key, route] of all.filter(([, { access }]) => access !== "public")) {
      it(`${key}: tells nothing of ${whose}, not even what exists`, async () => {
        const { sender } = world;
        const victim = world[from];
        const attacker = from === "mine" ? world.theirs : world.mine;
        const headers = { authorization: `Bearer ${attacker.apiKey}` };
        const secrets = [...Object.values(victim.things), ...victim.more];
        const least = leastShape(key, route);
        const references = referencesOf(route).filter(({ of }) => victim.things[of] !== undefined);
        for (const reference of references) {
          const id = victim.things[reference.of]!;
          const streams = route.stream === undefined ? [{}] : [{}, { accept: route.stream }];
          for (const more of streams) {
            const ask = (one: string) =>
              sender.send(sent(route, naming(least, reference, one), { ...headers, ...more }));
            const [there, nowhere] = [await ask(id), await ask(uuidv7())];
            expect(told(there), reference.field).to.equal(told(nowhere));
            expect(there.status, there.text).to.not.equal(400);
            if (reference.where === "params") {
              expect(cellOf(there)).to.match(/^(404 [A-Z_]+_NOT_FOUND|403 FORBIDDEN)$/);
              expect(codesOf(route)).to.include(refusal.parse(JSON.parse(there.text)).error.code);
            }
            for (const secret of secrets.filter((one) => one !== id))
              expect(there.text).to.not.include(secret);
          }
        }
        if (route.method !== "GET" || references.some(({ where }) => where === "params")) return;
        const { text } = await sender.send(sent(route, least, headers));
        // The keys that sign are the operator's to see, and he who took another's VM id has a VM of it now.
        const known = [victim.things["signing-keys"], victim.things["namesakes"]];
        for (const secret of secrets.filter((one) => !known.includes(one)))
          expect(text).to.not.include(secret);
      });
    }
  }

  it("left everything that it was tried with as it was", async () => {
    expect(await state()).to.equal(found);
  });
});
