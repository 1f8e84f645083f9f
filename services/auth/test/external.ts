import type { newIssuer } from "@muster/contracts/issuers";
import { authRequests } from "@muster/contracts/auth";
import type { PayloadInputOf, ReplyOf } from "@muster/contracts/define";
import type { z } from "zod";
import { openOutside, outsideKey } from "./outside.ts";
import type { Outside, OutsideKey } from "./outside.ts";
import { context, makeKey, setup } from "./setup.ts";
import type { Setup } from "./setup.ts";

const r = authRequests;
export type Granted = ReplyOf<typeof r.exchangeToken>;
type Asked = Omit<PayloadInputOf<typeof r.exchangeToken>, "subject_token">;

export interface External extends Setup {
  readonly outside: Outside;
  /** A key of the issuer that is published. */
  readonly key: OutsideKey;
  /** Seconds since 1970, by the clock for outside issuers. */
  seconds(): number;
  /** A tenant whose owner trusts the issuer. */
  trustedBy(tenantId: string, more?: Partial<z.input<typeof newIssuer>>): Promise<Trust>;
  /** Claims of an honest token for the audience `muster`. */
  claims(more?: Record<string, unknown>): Record<string, unknown>;
  /** A token of the issuer with these claims, by its key. */
  token(more?: Record<string, unknown>, header?: Record<string, unknown>): Promise<string>;
  take(token: string, more?: Partial<Asked>): Promise<Granted>;
}

export interface Trust {
  /** An access token of the tenant's owner. */
  readonly owner: string;
  readonly id: string;
}

/** auth, and an issuer outside that its tenants may trust. */
export async function setupExternal(): Promise<External> {
  const s = await setup();
  const outside = await openOutside("/realms/acme");
  const key = await outsideKey("k1", "ES256");
  await outside.publish(key);
  const seconds = () => Math.floor((Date.now() + s.outsideClock.aheadMs) / 1_000);
  const claims = (more: Record<string, unknown> = {}) => ({
    iss: outside.issuer,
    aud: "muster",
    sub: "person-1",
    iat: seconds() - 10,
    exp: seconds() + 600,
    roles: ["operator"],
    ...more,
  });
  return {
    ...s,
    outside,
    key,
    seconds,
    claims,
    token: (more, header) => outside.sign(key, claims(more), header),
    take: (subject_token, more = {}) => {
      const subject_token_type = "urn:ietf:params:oauth:token-type:jwt" as const;
      return s.asker.request(r.exchangeToken, { subject_token, subject_token_type, ...more }, context);
    },
    async trustedBy(tenantId, more = {}) {
      const owner = (await s.exchange(await makeKey(s.database, tenantId))).access_token;
      const wanted = {
        issuer: outside.issuer,
        audience: "muster",
        roles_claim: "roles",
        role_map: [
          { value: "operator", role: "member" as const },
          { value: "boss", role: "admin" as const, permissions: ["secrets.read"] },
        ],
        ...more,
      };
      const { issuer } = await s.as(owner, r.createIssuer, { issuer: wanted });
      return { owner, id: issuer.id };
    },
    async close() {
      await s.close();
      await outside.close();
    },
  };
}
