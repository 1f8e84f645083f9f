import { z } from "zod";
import { tenantId, timestamp, uuid } from "./ids.ts";
import { role } from "./principal.ts";

/** A fine permission, from the area to the deed: `approvals.review.prod`. */
export const permission = z
  .string()
  .max(64)
  .regex(/^[a-z][a-z-]*(\.[a-z][a-z-]*){1,5}$/, "must be words with dots between, like secrets.read");
const permissions = z.array(permission).max(64);

export const accountName = z
  .string()
  .min(1)
  .max(128)
  .regex(/^[^\p{Cc}]+$/u, "must not contain control characters");

/** Kept in lower case, whatever case it is sent in. */
export const email = z
  .string()
  .max(254)
  .regex(
    /^[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63}){0,4}$/,
    "must be an email address",
  );

export const apiKeyView = z.object({
  id: uuid,
  /** Enough to recognise the key by, and of no other use. */
  prefix: z.string(),
  name: z.string(),
  principal_id: uuid,
  /** The highest role that it carries; null is its holder's. */
  role_max: role.nullable(),
  /** The permissions that it carries where its holder has them; null is all of its holder's. */
  permissions: z.array(z.string()).nullable(),
  created_at: timestamp,
  expires_at: timestamp.nullable(),
  /** To the minute. */
  last_used_at: timestamp.nullable(),
  revoked_at: timestamp.nullable(),
});
export type ApiKeyView = z.infer<typeof apiKeyView>;

const account = {
  id: uuid,
  name: z.string(),
  role,
  permissions: z.array(z.string()),
  created_at: timestamp,
  disabled_at: timestamp.nullable(),
};
export const userView = z.object({
  ...account,
  /** Empty for a user whom an outside issuer vouches for. */
  email: z.string(),
  /** Who vouches for the user, where the account came by the issuer's word. */
  external: z.object({ issuer: z.string(), subject: z.string() }).optional(),
});
export type UserView = z.infer<typeof userView>;
export const serviceAccountView = z.object(account);
export type ServiceAccountView = z.infer<typeof serviceAccountView>;

export const tenantView = z.object({
  tenant_id: tenantId,
  state: z.enum(["active", "suspended"]),
  created_at: timestamp,
});
export type TenantView = z.infer<typeof tenantView>;

export const newApiKey = z.strictObject({
  name: accountName,
  principal_id: uuid.optional().describe("Whose key it is; by default the caller's own."),
  role_max: role.optional().describe("The key carries no role above this one."),
  permissions: permissions.optional().describe("The key carries these permissions and no others."),
  expires_at: timestamp.optional(),
});

export const newUser = z.strictObject({
  email,
  name: accountName.optional().describe("By default the email address."),
  role: role.default("member"),
  permissions: permissions.default([]),
});

export const newServiceAccount = z.strictObject({
  name: accountName,
  role: role.default("member"),
  permissions: permissions.default([]),
});

/** What is left out stays as it is; `permissions` replaces the whole list. */
export const accountChange = z.strictObject({
  name: accountName.optional(),
  role: role.optional(),
  permissions: permissions.optional(),
});

export const newTenant = z.strictObject({
  tenant_id: tenantId,
  owner_email: email.describe("The first owner; the answer has a key of the owner, shown once."),
});
