import { errorCodes, wireError } from "@muster/contracts/errors";
import { codesOf, type Route } from "@muster/contracts/route";
import { routes } from "@muster/contracts/routes";
import { deadLettersExchange, vmQueue } from "@muster/contracts/topology";
import { eventually } from "@muster/testing/eventually";
import { expect } from "chai";
import fc from "fast-check";
import { after, before, describe, it } from "mocha";
import { z } from "zod";
import { ask, ended, shell } from "../following.ts";
import { openSystem, type System } from "../system.ts";
import { quietLogs } from "./quiet.ts";
import { openSender, type Answer, type Sender } from "./sending.ts";
import { leastShape, makeThings, pathOf } from "./things.ts";
import { sweepOf, trialsOf, type Pools, type Trial } from "./trials.ts";

/** What is done to one thing comes before what is done to many, which may end them. */
const all = (Object.entries(routes) as [string, Route][]).sort(
  ([, a], [, b]) => Number(b.params !== undefined) - Number(a.params !== undefined),
);
const refusal = z.strictObject({ success: z.literal(false), error: wireError.strict() });
/** Codes that say which part of the request is at fault. */
const pointing = [
  "VALIDATION_FAILED",
  "BAD_JSON",
  "IDEMPOTENCY_KEY_INVALID",
  "UNSUPPORTED_MEDIA_TYPE",
  "BODY_TOO_LARGE",
];
const atOnce = 8;
const trialsPerRoute = 30;
/** Of what a request may end: a command is cancelled once, a dead letter settled once. */
const thingsOfEach = 100;

interface World {
  readonly system: System;
  readonly sender: Sender;
  readonly pools: Pools;
}

async function prepare(): Promise<World> {
  const system = await openSystem({ env: quietLogs() });
  const sender = openSender(system.gatewayUrl);
  const pools: Record<string, string[]> = {};
  const { client, tenantId, vhost, adminDatabaseUrl } = system;
  const things = await makeThings(client, tenantId, vhost, adminDatabaseUrl);
  for (const [of, id] of Object.entries(things)) pools[of] = [id];
  const vm = await system.registerVm();
  const waiting = Array.from({ length: thingsOfEach }, () => ask(client, { vm_uuid: vm, action: "ping" }));
  pools["commands"] = await Promise.all(waiting);
  for (let n = 0; n < thingsOfEach; n++) {
    await vhost.publish({
      exchange: deadLettersExchange,
      routingKey: vmQueue(tenantId, vm),
      payload: `odd ${n}`,
    });
  }
  pools["dead-letters"] = await eventually(async () => {
    const { data } = await client.listDeadLetters({ query: { vm_uuid: vm, limit: 200 } });
    return data.dead_letters.length === thingsOfEach && data.dead_letters.map(({ id }) => id);
  }, 15_000);
  const headers = { authorization: `Bearer ${system.apiKey}` };
  for (const [key, route] of all.filter(([, one]) => one.meta === "cursor")) {
    const [command = ""] = pools["commands"] ?? [];
    const shape = { ...leastShape(key, route), query: { limit: "1" } };
    const path = pathOf(route, route.params === undefined ? shape : { ...shape, params: { id: command } });
    const { text } = await sender.send({ method: "GET", path, headers });
    const cursor = /"next_cursor":"([^"]+)"/.exec(text)?.[1];
    pools[`cursors ${route.path}`] = cursor === undefined ? [] : [cursor];
  }
  return { system, sender, pools };
}

/** Whatever was sent: a success of the route's shape, or a refusal below 500 that says what and where. */
function expectOrderly({ path }: Route, { sent, looked }: Trial, answer: Answer): void {
  const route = all.map(([, one]) => one).find((one) => one.path === path && one.method === sent.method);
  expect(answer.status, `${sent.path} ${String(sent.body).slice(0, 300)}: ${answer.text}`).to.be.lessThan(
    500,
  );
  for (const header of ["x-request-id", "x-correlation-id", "traceparent"]) {
    if (answer.status !== 431) expect(answer.headers).to.have.property(header);
  }
  if (sent.method === "HEAD" || sent.method === "OPTIONS") return;
  if (answer.status < 400) {
    if (answer.headers["content-type"]?.startsWith("text/event-stream") === true) return;
    const { data } = z.object({ success: z.literal(true), data: z.unknown() }).parse(JSON.parse(answer.text));
    if (route === undefined) throw new Error(`${sent.method} ${path} is not declared and was answered`);
    expect(route.reply.safeParse(data).error?.issues ?? []).to.deep.equal([]);
    if (looked !== undefined) expect(fitsBody(route, looked), "an invalid body was taken").to.equal(true);
    return;
  }
  const { error } = refusal.parse(JSON.parse(answer.text));
  expect(error.message).to.not.equal("");
  const anywhere = ["ROUTE_NOT_FOUND", "METHOD_NOT_ALLOWED", "VALIDATION_FAILED"];
  expect([...(route === undefined ? [] : codesOf(route)), ...anywhere]).to.include(error.code);
  if (answer.status !== 431) expect(errorCodes[error.code].status).to.equal(answer.status);
  if (pointing.includes(error.code)) {
    expect(error.details, error.code).to.have.length.greaterThan(0);
    for (const { path, message } of error.details ?? []) {
      expect(path).to.match(/^[a-z][a-z_-]*([.[]|$)|^\(whole\)$/);
      expect(message).to.not.equal("");
    }
  }
}

function fitsBody(route: Route, text: string): boolean {
  // A request may come without a body, which is one without fields; a byte order mark says nothing (RFC 8259 §8.1).
  const value: unknown = text === "" ? {} : JSON.parse(text.replace(/^\ufeff/, ""));
  return route.body?.safeParse(value).success === true;
}

describe("whatever a request says", function () {
  this.timeout(120_000);
  let world: World;
  before(async () => (world = await prepare()));
  after(async () => {
    world?.sender.close();
    await world?.system.close();
  });

  for (const [key, route] of all) {
    it(`${key}: is answered by its contract, or refused with a code and a path`, async () => {
      const { system, sender, pools } = world;
      const headers = { authorization: `Bearer ${system.apiKey}` };
      const swept = sweepOf(route, pools, headers);
      for (let from = 0; from < swept.length; from += atOnce) {
        const some = swept.slice(from, from + atOnce);
        const answers = await Promise.all(some.map(({ sent }) => sender.send(sent)));
        some.forEach((trial, at) => expectOrderly(route, trial, answers[at]!));
      }
      await fc.assert(
        fc.asyncProperty(trialsOf(route, pools, headers), async (trial) => {
          expectOrderly(route, trial, await sender.send(trial.sent));
        }),
        { numRuns: trialsPerRoute },
      );
    });

    if (route.body === undefined) continue;
    it(`${key}: names an unknown field and one that is missing`, async () => {
      const { system, sender } = world;
      const headers = { authorization: `Bearer ${system.apiKey}`, "content-type": "application/json" };
      const shape = leastShape(key, route);
      const good = JSON.stringify(shape.body);
      const faultsOf = async (body: string): Promise<string[]> => {
        const answer = await sender.send({ method: route.method, path: pathOf(route, shape), headers, body });
        expect(answer.status, answer.text).to.equal(400);
        return (refusal.parse(JSON.parse(answer.text)).error.details ?? []).map(({ path }) => path);
      };
      for (const field of ["nothing_of_ours", "__proto__", "constructor", "toString"]) {
        const more = good === "{}" ? `{"${field}":1}` : good.replace("{", `{"${field}":1,`);
        expect(await faultsOf(more), field).to.deep.equal([`body.${field}`]);
      }
      for (const field of Object.keys(shape.body ?? {})) {
        const { [field]: _left, ...rest } = shape.body ?? {};
        // What the contract leaves to the owner is the owner's to name.
        if (route.body?.safeParse(rest).success === true) continue;
        const [path] = await faultsOf(JSON.stringify(rest));
        expect(path, field).to.be.oneOf([`body.${field}`, "body"]);
      }
    });
  }

  it("ended no process, failed no request, and the next good one is carried out", async () => {
    const { system } = world;
    for (const [name, service] of Object.entries(system.services)) {
      await service.ready(10_000);
      const log = await system.logOf(name);
      expect(log.match(/"(a request failed|request failed|bad reply)"/g) ?? [], name).to.deep.equal([]);
      expect(log.match(/"starting"/g) ?? [], name).to.have.length.lessThan(2);
    }
    const vm = await system.registerVm();
    await system.startAgent({ vmUuids: [vm] });
    expect(await ended(system.client, await ask(system.client, shell(vm, "true")))).to.include({
      state: "succeeded",
    });
  });
});
