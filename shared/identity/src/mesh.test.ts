import { expect } from "chai";
import { generateKeyPairSync, sign } from "node:crypto";
import type { KeyObject } from "node:crypto";
import { decodeJwt, decodeProtectedHeader } from "jose";
import { openLogger } from "@muster/telemetry/logger";
import { createMetrics } from "@muster/telemetry/metrics";
import { MusterError } from "@muster/contracts/errors";
import type { TokenRevocation } from "@muster/contracts/token-revocations";
import { codeOf, invalid, seconds, setup, startMs } from "../test/issuer.ts";
import { another, asked, byGateway, caller, setupMesh } from "../test/mesh.ts";
import type { MeshSetup } from "../test/mesh.ts";
import { asRevoked } from "./compact.ts";
import { MeshTokens, openMeshSigner, thumbprintOf } from "./mesh-signer.ts";
import { vouching } from "./vouch.ts";

/** Of what was made before the start. */
const revocation = (o: Partial<TokenRevocation> = {}): TokenRevocation => ({
  ...{ tenant_id: "acme", subject: caller.principal.subject, reason: "account-disabled" },
  not_before: new Date(startMs).toISOString(),
  until: new Date(startMs + 3_600_000).toISOString(),
  ...o,
});

/** Lets the event loop turn until it holds, within the test's own time. */
async function until(holds: () => boolean): Promise<void> {
  const untilMs = performance.now() + 10_000;
  while (!holds()) {
    if (performance.now() > untilMs) throw new Error("it never held");
    await new Promise((resolve) => setImmediate(resolve));
  }
}

const base64url = (part: unknown): string =>
  Buffer.from(typeof part === "string" ? part : JSON.stringify(part)).toString("base64url");

/** A signer whose tokens say what they are told to, by a key that vm-ops knows as the gateway's. */
function openForger({ issuer }: MeshSetup) {
  const { publicKey, privateKey } = generateKeyPairSync("ed25519");
  const { x = "" } = publicKey.export({ format: "jwk" });
  const kid = thumbprintOf(x);
  issuer.keys.push({ kty: "OKP", crv: "Ed25519", x, kid, alg: "EdDSA", use: "sig", service: "gateway" });
  const now = seconds(startMs);
  const good = {
    ...{ iss: "muster:gateway", aud: "muster:vm-ops", req: asked.name, sub: caller.principal.subject },
    ...{ tenant_id: "acme", roles: ["admin"], permissions: [], iat: now, nbf: now, exp: now + 70, jti: "j" },
    ...{ as_of: startMs, via: [] },
  };
  const token = (
    claims: Record<string, unknown> = {},
    header: Record<string, unknown> = {},
    key: KeyObject = privateKey,
  ): string => {
    const head = { alg: "EdDSA", kid, typ: "muster-mesh+jwt", ...header };
    const text = `${base64url(head)}.${base64url({ ...good, ...claims })}`;
    return `${text}.${sign(null, Buffer.from(text), key).toString("base64url")}`;
  };
  return { kid, token };
}
type Forger = ReturnType<typeof openForger>;

const claims =
  (...all: Record<string, unknown>[]) =>
  ({ token }: Forger) =>
    all.map((one) => token(one));
const headers =
  (...all: Record<string, unknown>[]) =>
  ({ token }: Forger) =>
    all.map((one) => token({}, one));
const now = seconds(startMs);

const attacks: Record<string, (forger: Forger, mesh: MeshSetup) => readonly string[] | Promise<string[]>> = {
  "an access token, by its issuer's own key": async () => {
    const issuer = await setup();
    return [await issuer.tokenOf()];
  },
  "an access token by a key of the mesh": claims({ iss: "https://auth.muster", aud: "muster" }),
  "a mesh token by a key that verifies access tokens": async ({ token }) => {
    const { privateKey } = generateKeyPairSync("ed25519");
    return [token({}, { kid: "k1" }, privateKey)];
  },
  "the type of another kind of token, or none": headers(
    { typ: "at+jwt" },
    { typ: "JWT" },
    { typ: undefined },
    { typ: "mesh+jwt" },
  ),
  "a token for another service, for several, or for all": claims(
    { aud: "muster:auth" },
    { aud: ["muster:vm-ops"] },
    { aud: ["muster:vm-ops", "muster:auth"] },
    { aud: "muster" },
    { aud: undefined },
  ),
  "a token for another request, for several, or for none": claims(
    { req: another.name },
    { req: [asked.name] },
    { req: "*" },
    { req: "" },
    { req: undefined },
  ),
  "a token of another service, or of nobody": claims(
    { iss: "muster:reliability" },
    { iss: "muster:vm-ops" },
    { iss: ["muster:gateway"] },
    { iss: undefined },
  ),
  "a token by the key of a service that did not ask": (_forger, { signerOf }) => [
    signerOf("reliability").mint(caller, asked),
    signerOf("vm-ops").mint(caller, asked),
  ],
  "a token by the key of another service that says it is the gateway's": ({ token }, { issuer }) => {
    const { publicKey, privateKey } = generateKeyPairSync("ed25519");
    const { x = "" } = publicKey.export({ format: "jwk" });
    const kid = thumbprintOf(x);
    const key = { kty: "OKP", crv: "Ed25519", x, kid, alg: "EdDSA", use: "sig" } as const;
    issuer.keys.push({ ...key, service: "reliability" });
    return [token({}, { kid }, privateKey)];
  },
  "another's key under a known kid": ({ token }) => [
    token({}, {}, generateKeyPairSync("ed25519").privateKey),
  ],
  "an unknown kid, and one that is none": headers(
    { kid: "k9" },
    { kid: undefined },
    { kid: "../k" },
    { kid: ["k"] },
  ),
  "a key in the header, or by an address": headers(
    { jwk: {} },
    { jku: "https://evil.example/keys" },
    { x5u: "https://evil.example/c" },
    { x5c: ["AAAA"] },
  ),
  "alg none, HMAC, or another than the key's": ({ token, kid }) => {
    const [, payload = "", signature = ""] = token().split(".");
    const unsigned = ["none", "None", ""].flatMap((alg) => {
      const header = base64url({ alg, kid, typ: "muster-mesh+jwt" });
      return [`${header}.${payload}.`, `${header}.${payload}.${signature}`];
    });
    return [...unsigned, token({}, { alg: "HS256" }), token({}, { alg: "ES256" })];
  },
  "a payload, a header or a signature that was changed": ({ token, kid }) => {
    const [header = "", payload = "", signature = ""] = token().split(".");
    const other = token({ roles: ["owner"] }).split(".");
    const moved = base64url({ typ: "muster-mesh+jwt", alg: "EdDSA", kid });
    return [
      `${header}.${other[1]}.${signature}`,
      `${header}.${payload}.${other[2]}`,
      `${moved}.${payload}.${signature}`,
      `${header}.${payload}.${signature.slice(0, -4)}`,
    ];
  },
  "an expired token, and one that is not valid yet": claims(
    { iat: now - 100, nbf: now - 100, exp: now - 6 },
    { nbf: now + 6 },
  ),
  "a token that lives longer than any request": claims({ exp: now + 661 }, { iat: now - 700, exp: now + 1 }),
  "a claim that is missing": claims(
    ...["exp", "iat", "nbf", "sub", "jti", "tenant_id", "as_of", "via"].map((name) => ({
      [name]: undefined,
    })),
  ),
  "no tenant's id, no role of ours, and what is the shadow's": claims(
    { tenant_id: "" },
    { tenant_id: "acme,other" },
    { roles: ["root"] },
    { tenant_id: "shadow-tenant" },
    { sub: "shadow" },
  ),
};

describe("an attack on a token between services", () => {
  for (const [what, forge] of Object.entries(attacks)) {
    it(`is refused: ${what}`, async () => {
      const mesh = setupMesh();
      const forger = openForger(mesh);
      const tokens = await forge(forger, mesh);
      expect(tokens).to.not.have.length(0);
      for (const token of tokens) {
        const error: unknown = await mesh.verifier
          .verify(token, byGateway)
          .catch((thrown: unknown) => thrown);
        expect(error, token.slice(0, 200)).to.be.instanceOf(MusterError).and.to.include({ code: invalid });
        expect(error).to.have.nested.property("details[0].path", "identity");
      }
      expect(await codeOf(mesh.verifier.verify(forger.token(), byGateway)), "a good one").to.equal(
        "accepted",
      );
    });
  }

  it("is refused at the door of HTTP: a token of the mesh is no access token", async () => {
    const mesh = setupMesh();
    const issuer = await setup();
    const { token, kid } = openForger(mesh);
    const { service: _service, ...jwk } = mesh.issuer.keys.find((key) => key.kid === kid)!;
    expect(await codeOf(issuer.verifier.verify(token()))).to.equal(invalid);
    // Not even if its key came among those that verify access tokens.
    issuer.issuer.keys.push(jwk);
    issuer.verifier.keysChanged();
    await issuer.verifier.verify(await issuer.tokenOf());
    const asAccess = token({ iss: "https://auth.muster", aud: "muster" });
    for (const one of [token(), asAccess])
      expect(await codeOf(issuer.verifier.verify(one))).to.equal(invalid);
    await issuer.verifier.close();
  });

  it("does not gain by being good once: a known token is held against each request and asker", async () => {
    const { gateway, verifier } = setupMesh();
    const token = gateway.mint(caller, asked);
    expect(await codeOf(verifier.verify(token, byGateway))).to.equal("accepted");
    expect(await codeOf(verifier.verify(token, { ...byGateway, name: another.name }))).to.equal(invalid);
    expect(await codeOf(verifier.verify(token, { ...byGateway, asker: "reliability" }))).to.equal(invalid);
    expect(await codeOf(verifier.verify(token, byGateway))).to.equal("accepted");
  });
});

describe("a token between services", () => {
  it("says for whom, to whom and for what it is, for as long as the request may take and a minute", async () => {
    const { gateway, verifier } = setupMesh();
    const token = gateway.mint(caller, asked);
    expect(decodeProtectedHeader(token)).to.deep.equal({
      alg: "EdDSA",
      kid: gateway.kid,
      typ: "muster-mesh+jwt",
    });
    const said = decodeJwt(token);
    expect(said).to.include({
      iss: "muster:gateway",
      aud: "muster:vm-ops",
      req: asked.name,
      sub: caller.principal.subject,
    });
    expect(said.exp! - said.iat!).to.equal(70);
    expect(await verifier.verify(token, byGateway)).to.deep.equal(caller.principal);
  });

  it("is made once for a caller and a request for half its life, and for each other one anew", async () => {
    const { gateway, clock, verifier } = setupMesh();
    const token = gateway.mint(caller, asked);
    clock.nowMs += 34_000;
    expect(gateway.mint(caller, asked)).to.equal(token);
    expect(gateway.mint(caller, another)).to.not.equal(token);
    expect(
      gateway.mint({ ...caller, principal: { ...caller.principal } }, asked),
      "another who is the same",
    ).to.not.equal(token);
    clock.nowMs += 2_000;
    const next = gateway.mint(caller, asked);
    expect(next).to.not.equal(token);
    expect(await codeOf(verifier.verify(token, byGateway)), "a request that waits").to.equal("accepted");
    clock.nowMs -= 3_600_000;
    expect(gateway.mint(caller, asked), "a clock that was set back").to.not.equal(next);
  });

  it("is used again only while it outlives the request, however long that may take", () => {
    const { gateway, clock } = setupMesh();
    const long = { ...asked, timeoutMs: 600_000 };
    const token = gateway.mint(caller, long);
    clock.nowMs += 49_000;
    expect(gateway.mint(caller, long)).to.equal(token);
    clock.nowMs += 2_000;
    expect(gateway.mint(caller, long)).to.not.equal(token);
  });

  it("by a new key is accepted at once: the set is fetched again, at most once a second", async () => {
    const { gateway, signerOf, verifier, issuer, clock } = setupMesh();
    expect(await codeOf(verifier.verify(gateway.mint(caller, asked), byGateway))).to.equal("accepted");
    for (let n = 0; n < 3; n++) {
      clock.nowMs += 1_000;
      const next = signerOf("gateway");
      expect(await codeOf(verifier.verify(next.mint(caller, asked), byGateway))).to.equal("accepted");
    }
    expect(issuer.fetches).to.equal(4);
    const unknown = new MeshTokens("gateway", () => clock.nowMs).mint(caller, asked);
    for (let n = 0; n < 10; n++) expect(await codeOf(verifier.verify(unknown, byGateway))).to.equal(invalid);
    expect(issuer.fetches).to.equal(4);
  });

  it("ends with what its caller's token was made from, known or not, and is refused as that one", async () => {
    const refused = async (mesh: MeshSetup, token: string): Promise<void> => {
      const error: unknown = await mesh.verifier.verify(token, byGateway).catch((thrown: unknown) => thrown);
      expect(error).to.include({ code: invalid });
      expect(error).to.have.nested.property("details[0].path", "header.authorization");
    };
    const subjects = [caller.principal.subject, "api-key:k", "refresh-family:f", null];
    for (const subject of subjects) {
      const mesh = setupMesh();
      const { gateway, verifier, clock } = mesh;
      const kept = gateway.mint(caller, asked);
      expect(await codeOf(verifier.verify(kept, byGateway))).to.equal("accepted");
      verifier.tokensRevoked(revocation({ subject }));
      clock.nowMs += 1_000;
      await refused(mesh, kept);
      gateway.forget();
      await refused(mesh, gateway.mint(caller, asked));
      const later = {
        ...caller,
        principal: { ...caller.principal },
        origin: () => ({ asOfMs: startMs, via: [] }),
      };
      expect(await codeOf(verifier.verify(gateway.mint(later, asked), byGateway))).to.equal("accepted");
    }
  });

  it("is judged by what was void before its verifier started, and not before that is known", async () => {
    const mesh = setupMesh();
    mesh.issuer.revocations.push(revocation());
    expect(await codeOf(mesh.verifier.verify(mesh.gateway.mint(caller, asked), byGateway))).to.equal(invalid);
    let isRead = false;
    const late = setupMesh({
      fetchRevocations: () =>
        isRead ? Promise.resolve({ items: [], next_cursor: null }) : Promise.reject(new Error("no answer")),
    });
    const ask = () => codeOf(late.verifier.verify(late.gateway.mint(caller, asked), byGateway));
    expect(await ask()).to.equal("DEPENDENCY_UNAVAILABLE");
    isRead = true;
    late.clock.nowMs += 500;
    expect(await ask()).to.equal("accepted");
  });

  it("is not judged while the keys cannot be had", async () => {
    const { gateway, verifier, issuer } = setupMesh();
    issuer.failing = true;
    const verdict = codeOf(verifier.verify(gateway.mint(caller, asked), byGateway));
    expect(await verdict).to.equal("DEPENDENCY_UNAVAILABLE");
  });

  it("that is bad or missing makes a shadow in shadow mode, and counts by request", async () => {
    const { gateway, verifier, metrics } = setupMesh({ mode: "shadow" });
    for (const token of [undefined, "garbage", gateway.mint(caller, another)]) {
      const who = await verifier.verify(token, byGateway);
      expect(who).to.include({ tenant_id: "shadow-tenant", subject: "shadow" });
    }
    expect((await verifier.verify(gateway.mint(caller, asked), byGateway)).tenant_id).to.equal("acme");
    const text = await metrics.registry.metrics();
    expect(text).to.include(
      `muster_auth_shadow_total{code="${invalid}",route="${asked.name}",service="test"} 2`,
    );
  });
});

describe("the key by which a process vouches", () => {
  const logger = openLogger({ service: "test", level: "silent" });
  function openSigner(register: () => Promise<{ expires_in_seconds: number }>, more: object = {}) {
    const metrics = createMetrics({ service: "test" });
    return openMeshSigner({ service: "gateway", register, logger, metrics, retryMs: 1, ...more });
  }

  it("makes no token before it is known to those who verify, and is told until it is", async () => {
    let tries = 0;
    let isTaken = false;
    const signer = openSigner(async () => {
      tries += 1;
      if (!isTaken) throw new MusterError("DEPENDENCY_UNAVAILABLE");
      return { expires_in_seconds: 7_200 };
    });
    const early = openSigner(() => Promise.reject(new Error("no")), { waitMs: 20 });
    expect(await codeOf(early.mint(caller, asked))).to.equal("DEPENDENCY_UNAVAILABLE");
    expect(signer.health().ok).to.equal(false);
    const waiting = signer.mint(caller, asked);
    await until(() => tries >= 3);
    isTaken = true;
    expect(decodeJwt(await waiting)).to.include({ iss: "muster:gateway" });
    expect(signer.health().ok).to.equal(true);
    await Promise.all([signer.close(), early.close()]);
  });

  it("is told again in time, and makes no token once it is known no more", async () => {
    let tries = 0;
    const kept = openSigner(async () => ({ expires_in_seconds: (tries += 1) && 7_200 }), { renewMs: 1 });
    await until(() => tries >= 3);
    await kept.close();
    let isGone = false;
    const gone = openSigner(
      async () => {
        if (isGone) throw new Error("no");
        isGone = true;
        return { expires_in_seconds: 0.1 };
      },
      { renewMs: 10_000, waitMs: 20 },
    );
    for (const ok of [true, false]) {
      await until(() => gone.health().ok === ok);
    }
    expect(await codeOf(gone.mint(caller, asked))).to.equal("DEPENDENCY_UNAVAILABLE");
    await gone.close();
  });

  it("that an owner does not know is told anew and tried once more; then it is no fault of the caller", async () => {
    const refusal = () =>
      new MusterError(invalid, undefined, { details: [{ path: "identity", message: "unknown" }] });
    let refused = 0;
    const tokens = new MeshTokens("gateway", Date.now);
    const signer = {
      mint: (...given: Parameters<typeof tokens.mint>) => Promise.resolve(tokens.mint(...given)),
      refused: async () => {
        refused += 1;
        tokens.forget();
      },
    };
    const seen: string[] = [];
    const once = (token: string) => {
      seen.push(token);
      return seen.length === 1 ? Promise.reject(refusal()) : Promise.resolve("done");
    };
    expect(await vouching({ signer, logger }, caller, asked, once)).to.equal("done");
    const always = vouching({ signer, logger }, caller, asked, () => Promise.reject(refusal()));
    expect(await codeOf(always)).to.equal("DEPENDENCY_UNAVAILABLE");
    expect(refused).to.equal(2);
    // Whom the owner refuses for what he is, it refuses: a disabled account, a role, a token that was revoked.
    for (const error of [new MusterError(invalid), asRevoked(), new MusterError("FORBIDDEN")]) {
      const asking = vouching({ signer, logger }, caller, asked, () => Promise.reject(error));
      expect(await codeOf(asking)).to.equal(error.code);
    }
    expect(refused).to.equal(2);
  });
});
