import { z } from "zod";
import { defineEvent, defineRequest, type Service } from "./define.ts";
import { timestamp } from "./ids.ts";
import { kid } from "./signing-keys.ts";

/** Tokens by which one service tells another whom it asks for: signed by the asking process, for one request of one owner. */
export const meshTokenType = "muster-mesh+jwt";
export const meshTokenAlgorithm = "EdDSA";
export const meshTokenIssuer = (asker: Service): string => `muster:${asker}`;
export const meshTokenAudience = (owner: Service): string => `muster:${owner}`;
/** A token lives so long beyond the request's own time: it waits in a queue, and is used again. */
export const meshTokenMarginMs = 60_000;

/** Of the longest request that an envelope allows. */
export const meshTokenLifeMaxSeconds = 600 + meshTokenMarginMs / 1_000;

/** A key that was not renewed for so long verifies no more: its process is gone. */
export const meshKeyLifeMs = 2 * 60 * 60_000;
/** Of one service; the least recently renewed ones go first. */
export const meshKeysOfServiceMax = 100;

/** What the new key signs to prove that it is its holder who registers it, and for which service. */
export const meshKeyProofText = (service: Service): string => `muster mesh key of ${service}`;

/** A public key on Ed25519 as JWK, without the members that are always the same. */
const point = z.string().regex(/^[A-Za-z0-9_-]{43}$/, "must be 32 bytes in base64url");

const meshJwk = z.object({
  kty: z.literal("OKP"),
  crv: z.literal("Ed25519"),
  x: point,
  /** Thumbprint of the key (RFC 7638): nobody can give a key of his the name of another. */
  kid,
  alg: z.literal(meshTokenAlgorithm),
  use: z.literal("sig"),
  /** Whose tokens it verifies, and nobody else's. */
  service: z.string().max(64),
});
export const meshKeys = z.object({ keys: z.array(meshJwk).max(1_000) });
export type MeshKeys = z.infer<typeof meshKeys>;
export type MeshKey = MeshKeys["keys"][number];

export const meshKeyRequests = {
  registerMeshKey: defineRequest({
    owner: "auth",
    name: "auth.mesh-key.register.v1",
    callers: ["gateway", "reliability"],
    summary:
      "Let the asking service vouch for its callers by this key, for two hours from now; to be renewed while its process lives.",
    payload: z.object({
      x: point,
      /** Ed25519 over the text that names the service, by the key. */
      proof: z.string().regex(/^[A-Za-z0-9_-]{86}$/, "must be 64 bytes in base64url"),
    }),
    reply: z.object({ kid, expires_in_seconds: z.number().int().min(1) }),
    codes: [],
    identity: "none",
  }),
  getMeshKeys: defineRequest({
    owner: "auth",
    name: "auth.mesh-keys.get.v1",
    callers: ["vm-ops", "reliability", "secrets"],
    summary: "The public keys by which services vouch for their callers on the mesh, each with its service.",
    payload: z.object({}),
    reply: meshKeys,
    codes: [],
    identity: "none",
  }),
} as const;

/** Every process that answers callers' requests hears it on a queue of its own, so no subscription binds it. */
export const meshKeysChanged = defineEvent({
  owner: "auth",
  name: "auth.mesh-keys.changed.v1",
  summary: "A process has a new key by which its service vouches for callers: fetch the keys anew.",
  external: true,
  payload: z.object({ service: z.string().max(64), kid, at: timestamp }),
});
