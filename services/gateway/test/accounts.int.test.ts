import type { RequestHandlers } from "@muster/broker/broker";
import { authRequests } from "@muster/contracts/auth";
import type { RequestContract } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import type { Route } from "@muster/contracts/route";
import { routes } from "@muster/contracts/routes";
import { wireSchemaOf } from "@muster/contracts/schema";
import { samplesOf } from "@muster/testing/samples";
import { expect } from "chai";
import fc from "fast-check";
import { z } from "zod";
import { setup } from "./setup.ts";
import type { Bundle } from "./setup.ts";

const declared: [string, RequestContract][] = Object.entries(authRequests);
const forCallers = declared.filter(([, { identity }]) => identity === "caller");
/** Answered with a sample: all but what the gateway asks on its own account. */
const ownAccount = ["getKeys", "exchangeApiKey", "listTokenRevocations"];
const sampled = declared.filter(([key]) => !ownAccount.includes(key));
const routeOf = new Map<string, Route>(Object.entries(routes));

function sampleOf(schema: z.ZodType): unknown {
  return fc.sample(samplesOf(wireSchemaOf(schema)), { numRuns: 1, seed: 3 })[0];
}

/** An auth that answers each request with one sample of its reply, and keeps what it was asked. */
async function serveSamples(s: Bundle) {
  const asked = new Map<string, unknown>();
  const replies = new Map(sampled.map(([key, { reply }]) => [key, sampleOf(reply)]));
  const samples = sampled.map(([key]) => [
    key,
    (payload: unknown) => {
      asked.set(key, payload);
      return Promise.resolve(replies.get(key));
    },
  ]);
  const own: Pick<
    RequestHandlers<typeof authRequests>,
    "getKeys" | "exchangeApiKey" | "listTokenRevocations" | "registerMeshKey"
  > = {
    registerMeshKey: s.meshKeys.handler,
    getKeys: () => Promise.resolve({ keys: s.issuer.keys }),
    listTokenRevocations: () => Promise.resolve({ items: [], next_cursor: null }),
    exchangeApiKey: (items) =>
      Promise.resolve(items.map(() => new MusterError("INVALID_OR_MISSING_BEARER_TOKEN"))),
  };
  // Made from the declarations themselves; the broker holds every reply against its contract.
  const handlers = { ...Object.fromEntries(samples), ...own } as RequestHandlers<typeof authRequests>;
  await s.peers.auth.serve("auth", authRequests, handlers);
  return { asked, replies };
}

describe("what auth answers about accounts", function () {
  this.timeout(60_000);
  let s: Bundle;
  let auth: Awaited<ReturnType<typeof serveSamples>>;
  before(async () => {
    s = await setup({ serveAuth: false });
    auth = await serveSamples(s);
  });
  after(() => s.close());

  for (const [key] of forCallers) {
    it(`${key}: passes through as it is, in the shape of its route, asked with what was sent`, async () => {
      const route = routeOf.get(key);
      if (route === undefined) throw new Error(`${key} has no route`);
      const [id, idempotencyKey] = [uuidv7(), uuidv7()];
      const body = route.body === undefined ? undefined : sampleOf(route.body);
      const response = await fetch(`${s.url}${route.path.replace(/\{(k?id|agent_id)\}/, id)}`, {
        method: route.method,
        headers: {
          authorization: `Bearer ${await s.issuer.token("owner")}`,
          ...(body === undefined ? {} : { "content-type": "application/json" }),
          ...(route.idempotencyKey ? { "idempotency-key": idempotencyKey } : {}),
        },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      });
      const answer: unknown = await response.json();
      expect(response.status, JSON.stringify(answer)).to.equal(route.status);
      const { data } = z.object({ data: z.record(z.string(), z.unknown()) }).parse(answer);
      const reply = z.record(z.string(), z.unknown()).parse(auth.replies.get(key));
      const { replayed, ...rest } = reply;
      if (route.meta === "cursor") expect(Object.values(data)).to.deep.equal([rest["items"]]);
      else if (/\{id\}$|\{agent_id\}/.test(route.path)) expect(Object.values(data)).to.deep.equal([rest]);
      else expect(data).to.deep.equal(rest);
      const asked = JSON.stringify(auth.asked.get(key));
      if (route.params !== undefined) expect(asked).to.include(id);
      if (!route.idempotencyKey) return;
      expect(asked).to.include(idempotencyKey);
      expect(response.headers.get("location")).to.match(/^\/api\/v1\//);
      expect(response.headers.get("idempotency-replayed")).to.equal(replayed === true ? "true" : null);
      expect(response.headers.get("cache-control")).to.equal("no-store");
    });
  }
});
