import { z } from "zod";
import { defineEvent } from "./define.ts";
import { timestamp } from "./ids.ts";

/** Names a signing key in tokens and key sets (RFC 7517). */
export const kid = z
  .string()
  .regex(/^[A-Za-z0-9_.-]{1,128}$/, "must be 1 to 128 of A-Z, a-z, 0-9, _, . and -");

/** Keys that a key set holds at most. */
export const publishedKeysMax = 20;

/** What a key signs: access tokens, or the tokens by which agents log in at the broker. */
export const signingKeyKinds = ["access", "broker"] as const;
export type SigningKeyKind = (typeof signingKeyKinds)[number];
export const signingKeyKind = z.enum(signingKeyKinds);

export const signingKeyView = z.object({
  kid,
  kind: signingKeyKind,
  alg: z.string(),
  /** `next` is published and signs later; `retired` signs no more and verifies until `verify_until`. */
  status: z.enum(["next", "active", "retired", "revoked"]),
  created_at: timestamp,
  activated_at: timestamp.nullable(),
  retired_at: timestamp.nullable(),
  verify_until: timestamp.nullable(),
  revoked_at: timestamp.nullable(),
});
export type SigningKeyView = z.infer<typeof signingKeyView>;

export const signingKeysView = z.object({
  /** Those that are published first, then revoked ones, newest first. */
  signing_keys: z.array(signingKeyView).max(200),
  /** When the next key takes over from the one that signs access tokens. */
  rotates_at: timestamp.nullable(),
  /** The same of the broker's tokens. */
  broker_rotates_at: timestamp.nullable(),
});
export type SigningKeysView = z.infer<typeof signingKeysView>;

/** Every process that verifies hears it on a queue of its own, so no subscription binds it; others may. */
export const signingKeysChanged = defineEvent({
  owner: "auth",
  name: "auth.signing-keys.changed.v1",
  summary:
    "The keys that verify tokens changed: fetch them anew, and take nothing that a revoked one signed.",
  external: true,
  payload: z.object({
    kind: signingKeyKind.default("access"),
    active: kid,
    published: z.array(kid).max(publishedKeysMax),
    /** Revoked by this change. */
    revoked: z.array(kid).max(publishedKeysMax),
    at: timestamp,
  }),
});
