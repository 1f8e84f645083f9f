import { authRequests } from "@muster/contracts/auth";
import type { RequestContract } from "@muster/contracts/define";
import { uuidv7 } from "@muster/contracts/ids";
import { roles } from "@muster/contracts/principal";
import { routes } from "@muster/contracts/routes";
import { wireSchemaOf } from "@muster/contracts/schema";
import { samplesOf } from "@muster/testing/samples";
import { expect } from "chai";
import fc from "fast-check";
import { codeOf, makeKey, setup } from "./setup.ts";
import type { Setup } from "./setup.ts";

const declared: [string, RequestContract][] = Object.entries(authRequests);
const accessOf = new Map<string, string>(Object.entries(routes).map(([key, route]) => [key, route.access]));
const asked = declared.filter(([, contract]) => contract.identity === "caller");

interface Bundle {
  readonly s: Setup;
  readonly subject: string;
  /** One thing of each kind, of another tenant, by the noun in a wire name. */
  readonly theirs: ReadonlyMap<string, string>;
  readonly other: string;
}

async function prepare(): Promise<Bundle> {
  const s = await setup();
  const mine = await s.exchange(await makeKey(s.database, "default"));
  const other = await s.exchange(await makeKey(s.database, "other"));
  const token = mine.access_token;
  const { user } = await s.as(token, authRequests.createUser, { user: { email: "a@example.org" } });
  const account = { service_account: { name: "a robot" } };
  const { service_account } = await s.as(token, authRequests.createServiceAccount, account);
  const { api_key } = await s.as(token, authRequests.createApiKey, { api_key: { name: "a key" } });
  const trusted = {
    issuer: "https://login.example.org",
    audience: "muster",
    roles_claim: "roles",
    role_map: [{ value: "operator", role: "member" as const }],
  };
  const { issuer } = await s.as(token, authRequests.createIssuer, { issuer: trusted });
  const theirs = new Map([
    ["issuer", issuer.id],
    ["user", user.id],
    ["service-account", service_account.id],
    ["api-key", api_key.id],
  ]);
  return { s, subject: mine.principal.subject, theirs, other: other.access_token };
}

/** Any payload that fits: a refusal comes before it is looked at. */
function payloadOf(contract: RequestContract): object {
  const [sample] = fc.sample(samplesOf(wireSchemaOf(contract.payload)), { numRuns: 1, seed: 1 });
  return sample ?? {};
}

describe("every request that acts for a caller", function () {
  this.timeout(60_000);
  let bundle: Bundle;
  before(async () => (bundle = await prepare()));
  after(() => bundle.s.close());

  for (const [key, contract] of asked) {
    it(`${key}: has a route, which says what role it needs`, () => {
      expect(accessOf.get(key)).to.be.oneOf([...roles]);
    });

    it(`${key}: refuses no token, garbage, an expired one, and one for others`, async () => {
      const { s, subject } = bundle;
      const owner = { tenantId: "default", subject, role: "owner" } as const;
      const expired = await s.sign({ ...owner, expiresInSeconds: -60 });
      const elsewhere = await s.sign({ ...owner, audience: "another-service" });
      const payload = payloadOf(contract);
      expect(await codeOf(s.as(undefined, contract, payload))).to.equal("MISSING_BEARER_TOKEN");
      for (const token of ["garbage", expired, elsewhere]) {
        expect(await codeOf(s.as(token, contract, payload))).to.equal("INVALID_OR_MISSING_BEARER_TOKEN");
      }
    });

    it(`${key}: refuses a lower role, an agent and a stranger, and a token above its account`, async () => {
      const { s, subject, theirs } = bundle;
      const payload = payloadOf(contract);
      const tenantId = "default";
      const needed = roles.findIndex((role) => role === accessOf.get(key));
      for (const role of roles.slice(0, needed)) {
        const token = await s.sign({ tenantId, subject, role });
        expect(await codeOf(s.as(token, contract, payload)), role).to.equal("FORBIDDEN");
      }
      for (const nobody of [`agent:${uuidv7()}`, "user:not-an-id"]) {
        const token = await s.sign({ tenantId, subject: nobody, role: "owner" });
        expect(await codeOf(s.as(token, contract, payload)), nobody).to.equal("FORBIDDEN");
      }
      if (needed === 0) return;
      const demoted = await s.sign({ tenantId, subject: `user:${theirs.get("user")}`, role: "owner" });
      expect(await codeOf(s.as(demoted, contract, payload)), "demoted").to.equal("FORBIDDEN");
    });

    it(`${key}: refuses at once whoever is gone, though the token still lives`, async () => {
      const { s } = bundle;
      const gone = { tenantId: "default", subject: `user:${uuidv7()}`, role: "owner" } as const;
      const refused = s.as(await s.sign(gone), contract, payloadOf(contract));
      expect(await codeOf(refused)).to.equal("INVALID_OR_MISSING_BEARER_TOKEN");
    });
  }

  for (const [key, contract] of asked.filter(([, { payload }]) => "id" in shapeOf(payload))) {
    it(`${key}: tells another tenant's from nothing at all by no sign`, async () => {
      const { s, theirs, other } = bundle;
      const id = theirs.get(contract.name.split(".")[1] ?? "");
      const codes = await Promise.all(
        [id, uuidv7()].map((one) => codeOf(s.as(other, contract, { ...payloadOf(contract), id: one }))),
      );
      expect(codes[0])
        .to.equal(codes[1])
        .and.to.match(/_NOT_FOUND$/);
      expect(id).to.not.equal(undefined);
    });
  }
});

function shapeOf(payload: RequestContract["payload"]): object {
  return "shape" in payload && typeof payload.shape === "object" ? (payload.shape ?? {}) : {};
}
