import { generateKeyPairSync, sign } from "node:crypto";
import { openBroker, type Broker } from "@muster/broker/broker";
import { authRequests } from "@muster/contracts/auth";
import type { Service } from "@muster/contracts/define";
import { meshKeyProofText, meshKeysChanged, meshKeysOfServiceMax } from "@muster/contracts/mesh-keys";
import { loginName } from "@muster/contracts/senders";
import { eventually, eventuallyHolds } from "@muster/testing/eventually";
import { expect } from "chai";
import { calculateJwkThumbprint } from "jose";
import { openTokenPruner } from "../src/tokens/prune.ts";
import { codeOf, context, logger, makeKey, metrics, setup } from "./setup.ts";
import type { Setup } from "./setup.ts";

const { registerMeshKey, getMeshKeys, listTenants } = authRequests;

function newKey(service: Service) {
  const { publicKey, privateKey } = generateKeyPairSync("ed25519");
  const { x = "" } = publicKey.export({ format: "jwk" });
  return { x, proof: sign(null, Buffer.from(meshKeyProofText(service)), privateKey).toString("base64url") };
}

describe("keys by which services vouch for their callers", function () {
  this.timeout(60_000);
  let s: Setup;
  const brokers: Broker[] = [];
  before(async () => (s = await setup()));
  after(async () => {
    for (const broker of brokers) await broker.close();
    await s.close();
  });

  async function as(service: Service): Promise<Broker> {
    const url = await s.vhost.urlAs(loginName(service));
    const broker = await openBroker({ url, name: service, service, logger, metrics });
    brokers.push(broker);
    return broker;
  }
  const published = async () => (await (await as("vm-ops")).request(getMeshKeys, {}, context)).keys;
  /** As if so much time had passed for every key. */
  const passTime = (seconds: number) =>
    s.database.transaction("system", (tx) =>
      tx.query("UPDATE mesh_keys SET expires_at = expires_at - $1 * interval '1 second'", [seconds]),
    );

  it("are what auth takes its own callers by: an access token is none on the mesh", async () => {
    const { access_token: access } = await s.exchange(await makeKey(s.database, "acme"));
    expect(await codeOf(s.as(access, listTenants, { limit: 1 }))).to.equal("none");
    const asking = s.asker.request(listTenants, { limit: 1 }, { ...context, identity: access });
    expect(await codeOf(asking)).to.equal("INVALID_OR_MISSING_BEARER_TOKEN");
  });

  it("are known by their own thumbprint, and as those of the service that the broker vouches for", async () => {
    const [gateway, reliability] = [newKey("gateway"), newKey("reliability")];
    const answers = [
      await s.asker.request(registerMeshKey, gateway, context),
      await (await as("reliability")).request(registerMeshKey, reliability, context),
    ];
    const known = await published();
    for (const [at, [service, { x }]] of Object.entries({ gateway, reliability }).entries()) {
      const { kid, expires_in_seconds: seconds } = answers[at]!;
      expect(kid).to.equal(await calculateJwkThumbprint({ kty: "OKP", crv: "Ed25519", x }));
      expect(seconds).to.equal(7_200);
      expect(known).to.deep.include({
        kty: "OKP",
        crv: "Ed25519",
        x,
        kid,
        alg: "EdDSA",
        use: "sig",
        service,
      });
    }
  });

  it("are registered by nobody else's word: no key of another's, none without its private half, no weak one", async () => {
    const reliability = await as("reliability");
    const theirs = newKey("gateway");
    const invalid = "VALIDATION_FAILED";
    expect(await codeOf(reliability.request(registerMeshKey, theirs, context)), "a gateway's").to.equal(
      invalid,
    );
    const mixed = { ...newKey("gateway"), x: theirs.x };
    expect(await codeOf(s.asker.request(registerMeshKey, mixed, context)), "another's proof").to.equal(
      invalid,
    );
    const identity = Buffer.from([1, ...new Array<number>(31).fill(0)]);
    const weak = {
      x: identity.toString("base64url"),
      proof: Buffer.concat([identity, Buffer.alloc(32)]).toString("base64url"),
    };
    expect(await codeOf(s.asker.request(registerMeshKey, weak, context)), "a weak one").to.equal(invalid);
    for (const service of ["auth", "vm-ops"] as const) {
      const asking = (await as(service)).request(registerMeshKey, newKey(service), context);
      expect(await codeOf(asking), service).to.equal("FORBIDDEN");
    }
    const kept = (await published()).map(({ x }) => x);
    for (const { x } of [theirs, mixed, weak]) expect(kept).to.not.include(x);
  });

  it("are told of once, live two hours from when they were told last, and are then forgotten", async () => {
    const heard: string[] = [];
    const hearer = await as("reliability");
    await hearer.hear(meshKeysChanged, { heard: ({ kid }) => heard.push(kid), missed: () => undefined });
    const key = newKey("gateway");
    const { kid } = await s.asker.request(registerMeshKey, key, context);
    await eventually(() => heard.includes(kid));
    await passTime(7_000);
    await s.asker.request(registerMeshKey, key, context);
    await passTime(7_000);
    expect((await published()).map((one) => one.kid)).to.include(kid);
    await passTime(300);
    expect((await published()).map((one) => one.kid)).to.not.include(kid);
    await s.asker.request(registerMeshKey, key, context);
    await eventually(() => heard.filter((one) => one === kid).length === 2);
    await passTime(7_300);
    const pruner = openTokenPruner({ database: s.database, logger, everyMs: 20 });
    const rows = () => s.database.transaction("system", (tx) => tx.query("SELECT kid FROM mesh_keys"));
    await eventuallyHolds(async () => expect(await rows()).to.deep.equal([]));
    await pruner.close();
  });

  it("of one service crowd out no other's, however often it starts anew", async () => {
    const other = newKey("gateway");
    await s.asker.request(registerMeshKey, other, context);
    const reliability = await as("reliability");
    const many = Array.from({ length: meshKeysOfServiceMax + 5 }, () => newKey("reliability"));
    for (const key of many) await reliability.request(registerMeshKey, key, context);
    const known = await published();
    expect(known.filter(({ service }) => service === "reliability")).to.have.length(meshKeysOfServiceMax);
    const kept = known.map(({ x }) => x);
    expect(kept).to.include(other.x).and.to.include(many.at(-1)!.x).and.to.not.include(many[0]!.x);
  });
});
