import { uuidv7 } from "@muster/contracts/ids";
import type { Tx } from "@muster/database/database";
import { lowerOf } from "../accounts/rules.ts";
import type { Rank } from "../accounts/rules.ts";
import { recordAudit } from "../audit/store.ts";
import { nameBy } from "./claims.ts";
import type { Claims, TrustedIssuer } from "./claims.ts";
import { TokenRefused } from "./refused.ts";
import { tellRevoked } from "../revocations/tell.ts";
import { insertExternalUser, keepNewest, lockExternalUser } from "./store.ts";
import type { ExternalUser, Newcomer } from "./store.ts";
import type { Vouched } from "./verify.ts";

/**
 * The account of whoever an issuer vouches for, made when he first comes, and what it may do by this token. The newest token
 * that anybody presented says what the account may do; an older one gives no more than that, so that what the issuer has
 * taken back does not return. Throws TokenRefused for an account that was disabled.
 */
export async function admit(
  tx: Tx,
  issuer: TrustedIssuer,
  o: { vouched: Vouched; claims: Claims; rank: Rank },
): Promise<Rank & { readonly id: string }> {
  const { subject, issuedAt } = o.vouched;
  const { tenantId } = issuer;
  const name = nameBy(o.claims, subject);
  const newcomer = { id: uuidv7(), tenantId, issuer: issuer.issuer, subject, name, issuedAt, ...o.rank };
  const user = await lockExternalUser(tx, newcomer);
  if (user !== undefined) return await readmit(tx, issuer, user, newcomer);
  if (await insertExternalUser(tx, newcomer)) {
    const details = { external_subject: subject, ...textOf(o.rank) };
    await audit(tx, issuer, newcomer.id, "created", details);
    return newcomer;
  }
  // Another token of the same user came first.
  const first = await lockExternalUser(tx, newcomer);
  if (first === undefined) throw new Error("an external user is neither there nor can be made");
  return await readmit(tx, issuer, first, newcomer);
}

async function readmit(
  tx: Tx,
  issuer: TrustedIssuer,
  user: ExternalUser,
  now: Newcomer,
): Promise<Rank & { readonly id: string }> {
  const { id } = user;
  if (user.disabled) throw new TokenRefused("account", "the account is disabled");
  if (now.issuedAt < user.external_issued_at) {
    const permissions = now.permissions.filter((permission) => user.permissions.includes(permission));
    return { id, role: lowerOf(now.role, user.role), permissions };
  }
  const [before, after] = [textOf(user), textOf(now)];
  const changed = before.role !== after.role || before.permissions !== after.permissions;
  if (changed || now.issuedAt > user.external_issued_at) await keepNewest(tx, { ...now, id });
  if (changed) {
    await audit(tx, issuer, id, "changed", after);
    await tellRevoked(tx, issuer.tenantId);
  }
  return { id, role: now.role, permissions: now.permissions };
}

const textOf = ({ role, permissions }: Rank) => ({ role, permissions: permissions.join(" ") });

function audit(
  tx: Tx,
  issuer: TrustedIssuer,
  userId: string,
  what: "created" | "changed",
  details: Readonly<Record<string, string>>,
): Promise<void> {
  return recordAudit(tx, {
    tenantId: issuer.tenantId,
    actor: `issuer:${issuer.id}`,
    action: `user.${what}`,
    subject: `user:${userId}`,
    details: { external_issuer: issuer.issuer, ...details },
  });
}
