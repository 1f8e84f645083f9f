import { inspect } from "node:util";
import { materialBytesMax } from "@muster/contracts/secrets";
import { eventuallyHolds } from "@muster/testing/eventually";
import { expect } from "chai";
import type { FaultyHttp, Mood } from "./faulty-http.ts";
import type { Vault } from "../../src/vaults/vault.ts";
import { VaultError } from "../../src/vaults/vault.ts";
import { selfSigned } from "./certificate.ts";
import { faultOf, newPlace, patience } from "./conformance.ts";
import { hashicorpAt, setupHashicorp, setupSupabase } from "./houses.ts";
import { openVaultStandIn } from "./vault-stand-in.ts";

interface Setup {
  readonly vault: Vault;
  readonly server: Pick<FaultyHttp, "be" | "state" | "dropConnections">;
  close(): Promise<void>;
}

/** Where the material goes; a login before it is left alone. */
const outside: Readonly<Record<string, { setup: () => Promise<Setup>; path: string }>> = {
  hashicorp: { setup: () => setupHashicorp(), path: "/secret/" },
  supabase: { setup: setupSupabase, path: "/rpc/" },
};
const canaries = ["canary-31c5e0", Buffer.from("canary-31c5e0").toString("base64")];
const place = newPlace();
const fields = { value: "canary-31c5e0" };

/** What answers that are no answers come to. */
const moods: readonly (readonly [string, Mood, string])[] = [
  ["a connection that is cut", { kind: "cut" }, "unavailable"],
  ["an answer that is cut", { kind: "truncated" }, "unavailable"],
  ["an answer without end", { kind: "endless" }, "garbled"],
  ["what is no HTTP", { kind: "no-http" }, "garbled"],
  ["a page of a proxy", page(200, "<html>maintenance</html>"), "garbled"],
  ["JSON of something else", page(200, '{"value":"x"}'), "garbled"],
  ["JSON that is cut", page(200, `{"data":{"data":{"value":"${fields.value}`), "garbled"],
  ["text that is not UTF-8", page(200, Buffer.from('{"data":"\xff"}', "latin1")), "garbled"],
  ["an answer in another encoding", page(200, "{}", { "content-encoding": "gzip" }), "garbled"],
  ["a page of a proxy that knows no such thing", page(404, "<html>not found</html>"), "not missing"],
  ["a redirect", page(307, "", { location: "http://127.0.0.1:1/v1/secret" }), "refused"],
  ["a redirect for good", page(301, "", { location: "http://127.0.0.1:1/v1/secret" }), "refused"],
];
const statuses: Readonly<Record<number, string>> = {
  400: "refused",
  401: "refused",
  403: "refused",
  405: "refused",
  408: "unavailable",
  409: "refused",
  412: "unavailable",
  413: "refused",
  429: "unavailable",
  472: "unavailable",
  473: "unavailable",
  500: "unavailable",
  501: "unavailable",
  502: "unavailable",
  503: "unavailable",
  504: "unavailable",
  540: "unavailable",
};

function page(status: number, body: string | Buffer, headers: Record<string, string> = {}): Mood {
  return { kind: "status", status, body, headers };
}

function callsOf(vault: Vault): Record<string, () => Promise<unknown>> {
  return {
    write: () => vault.write(place, fields, patience()),
    read: () => vault.read(place, patience()),
    destroy: () => vault.destroy(place, patience()),
  };
}

for (const [name, { setup, path }] of Object.entries(outside)) {
  describe(`the vault ${name}, failing`, () => {
    for (const [title, mood, fault] of moods) {
      it(`takes ${title} for ${fault}`, async () => {
        const { vault, server, close } = await setup();
        await vault.check(patience());
        server.be(mood, { path });
        for (const [operation, call] of Object.entries(callsOf(vault))) {
          const found = await faultOf(call());
          // What is deleted is not answered with anything that could be garbled.
          if (operation === "destroy" && found === "none" && fault === "garbled") continue;
          if (fault === "not missing") expect(found, operation).to.be.oneOf(["garbled", "refused"]);
          else expect(found, operation).to.equal(fault);
        }
        server.be({ kind: "well" });
        await vault.write(place, fields, patience());
        expect(await vault.read(place, patience())).to.deep.equal(fields);
        await close();
      });
    }

    it("gives each status its fault, and says the status", async () => {
      const { vault, server, close } = await setup();
      await vault.check(patience());
      for (const [status, fault] of Object.entries(statuses)) {
        server.be(page(Number(status), '{"errors":["x"],"message":"x"}'), { path });
        for (const [operation, call] of Object.entries(callsOf(vault))) {
          const thrown = await call().catch((error: unknown) => error);
          expect(thrown, `${operation} ${status}`).to.be.instanceOf(VaultError);
          expect((thrown as VaultError).fault, `${operation} ${status}`).to.equal(fault);
          expect((thrown as VaultError).message).to.include(status);
        }
      }
      await close();
    });

    it("passes on when to come again, in seconds or as a date, within an hour", async () => {
      const { vault, server, close } = await setup();
      const cases = { "7": 7_000, "90000": 3_600_000, "Thu, 01 Jan 1970 00:00:00 GMT": 0, soon: undefined };
      await vault.check(patience());
      for (const [header, expected] of Object.entries(cases)) {
        server.be(page(429, '{"errors":["rate limited"]}', { "retry-after": header }), { path });
        const thrown = await vault.read(place, patience()).catch((error: unknown) => error);
        expect((thrown as VaultError).retryAfterMs, header).to.equal(expected);
      }
      await close();
    });

    it("ends a call that is not answered when its signal says so, and leaves no connection behind", async () => {
      const { vault, server, close } = await setup();
      await vault.check(patience());
      server.be({ kind: "silent" }, { path });
      for (const call of [
        (signal: AbortSignal) => vault.write(place, fields, signal),
        (signal: AbortSignal) => vault.read(place, signal),
        (signal: AbortSignal) => vault.destroy(place, signal),
      ]) {
        const given = new AbortController();
        const fault = faultOf(call(given.signal));
        await eventuallyHolds(() => expect(server.state.held).to.equal(1));
        given.abort();
        expect(await fault).to.equal("unavailable");
        await eventuallyHolds(() => expect(server.state.held).to.equal(0));
      }
      await close();
    });

    it("writes again what was kept although its answer was lost", async () => {
      const { vault, server, close } = await setup();
      await vault.check(patience());
      server.be({ kind: "deaf" }, { path, calls: 2 });
      expect(await faultOf(vault.write(place, fields, patience()))).to.equal("unavailable");
      server.be({ kind: "well" });
      await vault.write(place, fields, patience());
      expect(await faultOf(vault.write(place, { value: "another" }, patience()))).to.equal("conflict");
      await close();
    });

    it("asks again on a new connection where a kept one was closed", async () => {
      const { vault, server, close } = await setup();
      await vault.write(place, fields, patience());
      // The request is read and its connection closed, as by a server that had given it up.
      server.be({ kind: "cut" }, { path, calls: 1 });
      expect(await vault.read(place, patience())).to.deep.equal(fields);
      server.be({ kind: "cut" }, { path, calls: 2 });
      expect(await faultOf(vault.read(place, patience()))).to.equal("unavailable");
      await close();
    });

    it("uses a connection again", async () => {
      const { vault, server, close } = await setup();
      await vault.write(place, fields, patience());
      const { connections } = server.state;
      for (let i = 0; i < 10; i++) await vault.read(place, patience());
      expect(server.state.connections).to.equal(connections);
      await close();
    });

    it("has neither material nor credentials in anything that it throws", async () => {
      const { vault, server, close } = await setup();
      const thrown: unknown[] = [];
      await vault.write(place, fields, patience());
      const sent = server.state.asked.flatMap(({ headers }) => [
        headers["x-vault-token"],
        headers["apikey"],
        headers.authorization,
      ]);
      const secrets = [
        ...canaries,
        "canary-secret-id",
        ...sent.flatMap((text) => (text === undefined ? [] : [text])),
      ];
      const echo = JSON.stringify({
        errors: [...secrets],
        message: secrets.join(),
        data: { data: fields.value },
      });
      const echoes = [200, 400, 404, 429, 500].map((status) => page(status, echo));
      for (const mood of [
        ...moods.map(([, one]) => one),
        ...echoes,
        page(200, `${fields.value} is no JSON`),
      ]) {
        server.be(mood, { path });
        for (const call of Object.values(callsOf(vault)))
          thrown.push(await call().catch((error: unknown) => error));
      }
      const text = inspect(thrown, {
        depth: Infinity,
        showHidden: true,
        maxArrayLength: null,
        maxStringLength: null,
      });
      expect(thrown.filter((one) => one instanceof VaultError).length).to.be.greaterThan(30);
      // A parser quotes some letters of what it read.
      for (const secret of [...secrets, "canary"]) expect(text).not.to.include(secret);
      await close();
    });
  });
}

describe("an outside vault's address", () => {
  it("is unavailable where nobody listens", async () => {
    const server = await openVaultStandIn();
    await server.close();
    const vault = hashicorpAt(server.url);
    const thrown = await vault.check(patience()).catch((error: unknown) => error);
    expect((thrown as VaultError).fault).to.equal("unavailable");
    expect((thrown as VaultError).message).to.include("ECONNREFUSED");
    await vault.close();
  });

  it("is believed by the given certificates alone", async () => {
    const [own, other] = [selfSigned("vault"), selfSigned("vault")];
    const server = await openVaultStandIn({ tls: own });
    const trusting = hashicorpAt(server.url, { ca: own.certificate });
    await trusting.write(place, fields, patience());
    expect(await trusting.read(place, patience())).to.deep.equal(fields);
    for (const ca of [other.certificate, undefined]) {
      const wary = hashicorpAt(server.url, { ca });
      const asked = server.state.asked.length;
      expect(await faultOf(wary.read(place, patience()))).to.equal("unavailable");
      expect(server.state.asked.length, "requests that it sent").to.equal(asked);
      await wary.close();
    }
    await trusting.close();
    await server.close();
  });
});

it("the bound of an answer leaves room for the largest material", () => {
  expect(
    JSON.stringify(JSON.stringify({ value: "\u0001".repeat(materialBytesMax / 6) })).length,
  ).to.be.lessThan(8 * materialBytesMax);
});
