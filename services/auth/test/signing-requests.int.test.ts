import { authRequests } from "@muster/contracts/auth";
import type { PayloadOf } from "@muster/contracts/define";
import { signingKeysChanged } from "@muster/contracts/signing-keys";
import type { SigningKeysView } from "@muster/contracts/signing-keys";
import { loginName } from "@muster/contracts/senders";
import { openBroker } from "@muster/broker/broker";
import { openMeshVerifier } from "@muster/identity/mesh-verify";
import { eventually, eventuallyHolds } from "@muster/testing/eventually";
import { expect } from "chai";
import { decodeProtectedHeader } from "jose";
import { findMeshKeys } from "../src/mesh-keys/register.ts";
import { openAuth } from "../src/open-auth.ts";
import { keepKeys } from "../src/signing/keep.ts";
import { listRevocations } from "../src/revocations/tell.ts";
import {
  agentParts,
  tokenTtlSeconds,
  codeOf,
  context,
  externalParts,
  life,
  logger,
  makeKey,
  metrics,
  open,
  openReplica,
  passTime,
  setup,
  refreshLife,
  wideBounds,
} from "./setup.ts";
import type { Setup } from "./setup.ts";

const { listSigningKeys, rotateSigningKey, revokeSigningKey, listTenants } = authRequests;
const aheadSeconds = life.publishAheadMs / 1_000;
const kidOf = (token: string) => decodeProtectedHeader(token).kid ?? "";
const kidsOf = ({ signing_keys: keys }: SigningKeysView, status: string) =>
  keys.filter((key) => key.kind === "access" && key.status === status).map(({ kid }) => kid);

describe("requests about signing keys", function () {
  this.timeout(60_000);
  let s: Setup;
  let key: string;
  const heard: PayloadOf<typeof signingKeysChanged>[] = [];

  before(async () => {
    s = await setup();
    key = await makeKey(s.database, "default");
    const missed = () => undefined;
    await s.broker.hear(signingKeysChanged, { heard: (change) => heard.push(change), missed });
  });
  after(() => s.close());

  const token = async (by = key) => (await s.exchange(by)).access_token;
  const list = async () => await s.as(await token(), listSigningKeys, {});
  const rotate = async () => await s.as(await token(), rotateSigningKey, {});
  const revoke = async (kid: string) => await s.as(await token(), revokeSigningKey, { kid });
  const audited = (action: string) =>
    s.database.transaction("system", (tx) =>
      tx.query<{ actor: string; subject: string }>(
        "SELECT actor, subject FROM audit_events WHERE action = $1 ORDER BY id",
        [`signing-key.${action}`],
      ),
    );

  it("are answered to owners of the operator's tenant alone", async () => {
    const other = await token(await makeKey(s.database, "other"));
    const asked = [
      s.as(other, listSigningKeys, {}),
      s.as(other, rotateSigningKey, {}),
      s.as(other, revokeSigningKey, { kid: kidOf(other) }),
      s.as(other, revokeSigningKey, { kid: "none" }),
    ];
    expect(await Promise.all(asked.map(codeOf))).to.deep.equal(asked.map(() => "FORBIDDEN"));
    expect(kidsOf(await list(), "active")).to.deep.equal([kidOf(other)]);
  });

  it("rotate once for any number that ask two processes at once, and again", async () => {
    const database = await open(s.postgres.urlFor("auth"));
    const verifier = openMeshVerifier({
      service: "auth",
      fetchKeys: () => database.transaction("system", findMeshKeys, { readOnly: true }),
      fetchRevocations: (page) => listRevocations(database, page),
      ...{ mode: "enforced", shadowTenantId: "shadow-tenant", logger, metrics },
    });
    const broker = await openBroker({
      ...{ url: await s.vhost.urlAs(loginName("auth")), name: "auth-2", service: "auth", logger, metrics },
      identify: verifier.verify,
    });
    const signing = await openReplica(database);
    const agents = await agentParts(database, s.vhost);
    await openAuth({
      ...{ database, broker, signing, keeping: { ...s.keeping, tokenTtlSeconds, database }, refreshLife },
      ...{ agents: agents.agents, bounds: wideBounds, logger, metrics },
      ...{ operatorTenantId: "default", shadowTenantId: "shadow-tenant" },
      external: externalParts({ aheadMs: 0 }),
    });
    await passTime(s.database, 2 * aheadSeconds);
    const before = await list();
    const asking = await token();
    const answers = await Promise.all(Array.from({ length: 20 }, () => s.as(asking, rotateSigningKey, {})));
    answers.push(await rotate());
    for (const answer of answers) {
      expect(kidsOf(answer, "active")).to.deep.equal(kidsOf(before, "next"));
      expect(kidsOf(answer, "retired")).to.deep.equal(kidsOf(before, "active"));
    }
    expect(kidOf(await token())).to.equal(kidsOf(before, "next")[0]);
    expect(await codeOf(s.as(asking, listTenants, { limit: 1 })), "a token by the key before").to.equal(
      "none",
    );
    expect(await audited("rotation-asked")).to.have.length(1);
    for (const part of [broker, signing, verifier, database]) await part.close();
  });

  it("are told when a rotation will be, where the next key is not known for long enough", async () => {
    await passTime(s.database, 2 * aheadSeconds);
    await revoke(kidsOf(await list(), "next")[0] ?? "");
    const [asked, again] = [await rotate(), await rotate()];
    const next = asked.signing_keys.find(({ status }) => status === "next");
    expect(asked.rotates_at).to.equal(
      new Date(Date.parse(next?.created_at ?? "") + life.publishAheadMs).toISOString(),
    );
    expect(again).to.deep.equal(asked);
    expect((await keepKeys(s.keeping)).map(({ kind }) => kind)).to.not.include("rotate");
    await passTime(s.database, aheadSeconds);
    expect((await keepKeys(s.keeping)).map(({ kind }) => kind)).to.include("rotate");
    expect(kidsOf(await list(), "active")).to.deep.equal([next?.kid]);
  });

  it("revoke the key that signs at once: the known next one signs, and what it signed is refused", async () => {
    const old = await token();
    const before = await list();
    const [next] = kidsOf(before, "next");
    heard.length = 0;
    const after = await revoke(kidOf(old));
    expect(kidsOf(after, "active")).to.deep.equal([next]);
    expect(kidsOf(after, "revoked")).to.include(kidOf(old));
    expect(kidsOf(after, "next")).to.have.length(1);
    const published = await s.asker.request(authRequests.getKeys, {}, context);
    expect(published.keys.map(({ kid }) => kid)).to.not.include(kidOf(old));
    expect(kidOf(await token())).to.equal(next);
    await eventuallyHolds(async () =>
      expect(await codeOf(s.as(old, listTenants, { limit: 1 }))).to.equal("INVALID_OR_MISSING_BEARER_TOKEN"),
    );
    expect(await codeOf(s.as(await token(), listTenants, { limit: 1 }))).to.equal("none");
    const change = await eventually(() => heard.find(({ revoked }) => revoked.includes(kidOf(old))));
    expect(change.active).to.equal(next);
    expect(change.published).to.have.members(published.keys.map(({ kid }) => kid));
    const { principal } = await s.exchange(key);
    expect((await audited("revoked")).at(-1)).to.deep.equal({
      actor: principal.subject,
      subject: `signing-key:${kidOf(old)}`,
    });
    const sealed = await s.database.transaction("system", (tx) =>
      tx.query("SELECT private_sealed FROM signing_keys WHERE kid = $1", [kidOf(old)]),
    );
    expect(sealed).to.deep.equal([{ private_sealed: null }]);
  });

  it("rotate and revoke the broker's keys apart from the others", async () => {
    await passTime(s.database, 2 * aheadSeconds);
    const brokers = (view: SigningKeysView) => view.signing_keys.filter(({ kind }) => kind === "broker");
    const before = await list();
    const rotated = await s.as(await token(), rotateSigningKey, { kind: "broker" });
    expect(kidsOf(rotated, "active")).to.deep.equal(kidsOf(before, "active"));
    const next = brokers(before).find(({ status }) => status === "next")?.kid;
    expect(brokers(rotated).find(({ status }) => status === "active")?.kid).to.equal(next);
    const revoked = await revoke(next ?? "");
    expect(kidsOf(revoked, "active")).to.deep.equal(kidsOf(before, "active"));
    expect(brokers(revoked).find(({ kid }) => kid === next)?.status).to.equal("revoked");
    await eventuallyHolds(() => expect(heard.at(-1)).to.deep.include({ kind: "broker", revoked: [next] }));
  });

  it("revoke once however often they are sent, any key that there is, and no other", async () => {
    await passTime(s.database, 2 * aheadSeconds);
    const before = await rotate();
    const [gone] = kidsOf(before, "revoked");
    const count = (await audited("revoked")).length;
    expect(await revoke(gone ?? "")).to.deep.equal(before);
    expect(await audited("revoked")).to.have.length(count);
    const [retired] = kidsOf(before, "retired");
    expect(kidsOf(await revoke(retired ?? ""), "revoked")).to.include(retired);
    expect(await codeOf(revoke("never-was"))).to.equal("SIGNING_KEY_NOT_FOUND");
    const twice = kidsOf(before, "active")[0] ?? "";
    const asking = await token();
    const codes = await Promise.all(
      Array.from({ length: 5 }, () => codeOf(s.as(asking, revokeSigningKey, { kid: twice }))),
    );
    expect(codes).to.include("none");
    expect(await audited("revoked")).to.have.length(count + 2);
  });
});
