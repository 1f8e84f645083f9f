import { z } from "zod";
import { labels, page } from "./commands.ts";
import { defineRequest } from "./define.ts";
import { plainText, timestamp, uuid } from "./ids.ts";
import { followUp, followUpView, rotationOptions, rotationRequests, rotationView } from "./rotations.ts";
import { secretField, secretName, secretVersion } from "./secret-references.ts";
import { cursor, idempotencyKey, limit, projectId } from "./vm-ops.ts";

export const vaultKinds = ["sealed", "hashicorp", "supabase"] as const;
export type VaultKind = (typeof vaultKinds)[number];

/** Bytes of one field's value in UTF-8: what fits into an environment variable with room to spare. */
export const secretValueBytesMax = 64 * 1024;
export const secretFieldsMax = 16;
export const materialBytesMax = 256 * 1024;
/** The field of a secret that has but one. */
export const onlyField = "value";

/**
 * What a secret is: its fields. Never in a log, a queue or a table in clear; it crosses the mesh sealed. Values have no NUL: they
 * become environment variables.
 */
export const material = z
  .record(
    secretField,
    z
      .string()
      .min(1)
      .max(secretValueBytesMax)
      .refine(
        (text) => Buffer.byteLength(text) <= secretValueBytesMax,
        `must be at most ${secretValueBytesMax} bytes`,
      )
      .refine((text) => !/[\0\p{Cs}]/u.test(text), "must not contain NUL or half of a surrogate pair"),
  )
  .refine((fields) => Object.keys(fields).length >= 1, "has at least one field")
  .refine((fields) => Object.keys(fields).length <= secretFieldsMax, `has at most ${secretFieldsMax} fields`)
  .refine(
    (fields) => Buffer.byteLength(JSON.stringify(fields)) <= materialBytesMax,
    `must be at most ${materialBytesMax} bytes in all`,
  )
  .meta({ minProperties: 1, maxProperties: secretFieldsMax });
export type Material = z.infer<typeof material>;

export const publicKeyX = z.string().regex(/^[A-Za-z0-9_-]{43}$/, "must be 32 bytes in base64url");
/** A compact JWE, ECDH-ES by X25519 with A256GCM, to whom it is for alone. */
export const sealed = z
  .string()
  .max(512 * 1024)
  .regex(
    /^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$/,
    "must be a compact JWE",
  );
const sealedBytesMax = 640 * 1024;

/** What a sealed box is about, as its maker and its reader both know it: a box that was moved opens nowhere. */
export const sealedFor = {
  /** From the gateway to secrets; `tenant` is the caller's. */
  write: (tenant: string): string => `muster.secrets.write:${tenant}`,
  /** From secrets to the gateway that asked. */
  read: (tenant: string, secretId: string, version: number): string =>
    `muster.secrets.read:${tenant}:${secretId}:${version}`,
  /** From secrets to the agent, for one attempt. */
  attempt: (o: { tenant: string; agentId: string; commandId: string; attempt: number }): string =>
    `muster.secrets.attempt:${o.tenant}:${o.agentId}:${o.commandId}:${o.attempt}`,
};

export const secretStates = ["enabled", "disabled", "deleted"] as const;
export const secretView = z.object({
  id: uuid,
  name: z.string(),
  description: z.string(),
  state: z.enum(secretStates),
  /** The one that references without a version mean. */
  version: secretVersion.nullable(),
  /** Names of the current version's fields; never values. */
  fields: z.array(z.string()),
  vault: z.enum(vaultKinds),
  created_by: z.string(),
  created_at: timestamp,
  changed_at: timestamp,
  rotated_at: timestamp.nullable(),
});
export type SecretView = z.infer<typeof secretView>;

export const versionView = z.object({
  version: secretVersion,
  state: z.enum(["current", "kept", "destroyed"]),
  fields: z.array(z.string()),
  created_by: z.string(),
  created_at: timestamp,
  destroyed_at: timestamp.nullable(),
});
export type VersionView = z.infer<typeof versionView>;

/** For whom a binding is: one VM, VMs that have all these labels, or the commands of a project. */
export const bindingTarget = z.union([
  z.strictObject({ vm_uuid: uuid }),
  z.strictObject({
    labels: labels
      .refine((map) => Object.keys(map).length > 0, "names at least one label")
      .meta({ minProperties: 1 }),
  }),
  z.strictObject({ project_id: projectId }),
]);

const variable = z.string().regex(/^[A-Za-z_][A-Za-z0-9_]{0,127}$/, "must be a name of A-Z, a-z, 0-9 and _");
/** A name in the run's own folder in memory, or an absolute path on a file system in memory. */
const filePath = z
  .string()
  .max(1_024)
  .regex(/^(\/[^\0/][^\0]*|[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})$/, "must be a file name, or an absolute path");
/** How it reaches the process. */
export const bindingAppearance = z.union([
  z.strictObject({ env: variable }),
  z.strictObject({ file: filePath }),
  z.strictObject({ stdin: z.literal(true) }),
]);
export type BindingAppearance = z.infer<typeof bindingAppearance>;

export const newBinding = z.strictObject({
  secret_id: uuid,
  target: bindingTarget,
  as: bindingAppearance,
  field: secretField.optional().describe("For references to this field alone; by default for every one."),
  follow_up: followUp
    .optional()
    .describe("Run on the VM when the secret is rotated; only where the target names a VM."),
});
export const bindingView = z.object({
  id: uuid,
  secret_id: uuid,
  secret_name: z.string(),
  target: bindingTarget,
  as: bindingAppearance,
  field: z.string().nullable(),
  follow_up: followUpView.nullable(),
  created_by: z.string(),
  created_at: timestamp,
});
export type BindingView = z.infer<typeof bindingView>;

export const leaseStates = ["active", "ended", "expired", "revoked"] as const;
/** That an attempt was given a secret: who, what, until when. */
export const leaseView = z.object({
  id: uuid,
  secret_id: uuid,
  secret_name: z.string(),
  version: secretVersion,
  command_id: uuid,
  attempt: z.number().int().min(1),
  vm_uuid: uuid,
  agent_id: uuid,
  state: z.enum(leaseStates),
  granted_at: timestamp,
  expires_at: timestamp,
  ended_at: timestamp.nullable(),
});
export type LeaseView = z.infer<typeof leaseView>;

const description = plainText.max(500);
export const newSecret = z.strictObject({
  name: secretName,
  description: description.default(""),
  material: material.describe("The fields and their values. A secret of one value has the field `value`."),
});
export const newVersion = z.strictObject({ material });

export const generator = z.strictObject({
  field: secretField.default(onlyField),
  length: z.number().int().min(8).max(1_024).default(32),
  alphabet: z.enum(["alphanumeric", "printable", "hex", "digits"]).default("alphanumeric"),
});
export const rotation = z.union([
  z.strictObject({ material, ...rotationOptions }),
  z.strictObject({ generate: generator, ...rotationOptions }),
]);

const readMaterial = z.object({ version: secretVersion, material });
export const secretMaterial = z.object({ secret_id: uuid, ...readMaterial.shape });

export const leaseFilter = z.object({
  secret_id: uuid.optional(),
  command_id: uuid.optional(),
  vm_uuid: uuid.optional(),
  state: z.enum(leaseStates).optional(),
});
export const bindingFilter = z.object({ secret_id: uuid.optional(), vm_uuid: uuid.optional() });

/** What the vault says when it cannot be asked, or will not answer. */
export const vaultCodes = ["VAULT_UNAVAILABLE", "VAULT_REFUSED"] as const;
const secretAndHolders = z.object({
  secret: secretView,
  /** Leases of commands that run and hold it now. */
  held_by: z.array(leaseView).max(200),
});

export const secretsRequests = {
  getSealingKey: defineRequest({
    owner: "secrets",
    name: "secrets.sealing-key.get.v1",
    summary: "The public key (X25519) by which material is sealed on its way to the secrets service.",
    payload: z.object({}),
    reply: z.object({ x: publicKeyX }),
    codes: [],
    identity: "none",
  }),
  createSecret: defineRequest({
    owner: "secrets",
    name: "secrets.secret.create.v1",
    summary: "Keep a secret in the vault, as its first version.",
    payload: z.object({
      secret: newSecret.omit({ material: true }),
      sealed,
      idempotency_key: idempotencyKey.optional(),
    }),
    payloadBytesMax: sealedBytesMax,
    reply: z.object({ secret: secretView, replayed: z.boolean() }),
    codes: [
      "SECRET_ALREADY_EXISTS",
      "SECRETS_TOO_MANY",
      "SEALING_KEY_UNKNOWN",
      "IDEMPOTENCY_KEY_REUSED",
      ...vaultCodes,
    ],
  }),
  listSecrets: defineRequest({
    owner: "secrets",
    name: "secrets.secret.list.v1",
    summary: "List the tenant's secrets, newest first; metadata alone.",
    payload: z.object({ name: secretName.optional(), limit, cursor: cursor.optional() }),
    reply: page(secretView),
    codes: ["CURSOR_INVALID"],
  }),
  getSecret: defineRequest({
    owner: "secrets",
    name: "secrets.secret.get.v1",
    summary: "Read one secret's metadata.",
    payload: z.object({ secret_id: uuid }),
    reply: secretView,
    codes: ["SECRET_NOT_FOUND"],
  }),
  disableSecret: defineRequest({
    owner: "secrets",
    name: "secrets.secret.disable.v1",
    summary: "Give a secret to nobody any more, until it is enabled; its material stays. Again is harmless.",
    payload: z.object({ secret_id: uuid }),
    reply: secretAndHolders,
    codes: ["SECRET_NOT_FOUND"],
  }),
  enableSecret: defineRequest({
    owner: "secrets",
    name: "secrets.secret.enable.v1",
    summary: "Give a disabled secret again to whom it is bound. Again is harmless.",
    payload: z.object({ secret_id: uuid }),
    reply: secretView,
    codes: ["SECRET_NOT_FOUND"],
  }),
  deleteSecret: defineRequest({
    owner: "secrets",
    name: "secrets.secret.delete.v1",
    summary: "Destroy a secret's material in the vault, all versions, for good. Again is harmless.",
    payload: z.object({ secret_id: uuid }),
    reply: secretAndHolders,
    codes: ["SECRET_NOT_FOUND", ...vaultCodes],
  }),
  addVersion: defineRequest({
    owner: "secrets",
    name: "secrets.version.add.v1",
    summary: "Add a version, which is the current one from then on.",
    payload: z.object({ secret_id: uuid, sealed, idempotency_key: idempotencyKey.optional() }),
    payloadBytesMax: sealedBytesMax,
    reply: z.object({ secret: secretView, version: versionView, replayed: z.boolean() }),
    codes: [
      "SECRET_NOT_FOUND",
      "SECRET_VERSIONS_TOO_MANY",
      "SEALING_KEY_UNKNOWN",
      "IDEMPOTENCY_KEY_REUSED",
      ...vaultCodes,
    ],
  }),
  listVersions: defineRequest({
    owner: "secrets",
    name: "secrets.version.list.v1",
    summary: "List a secret's versions, newest first; metadata alone.",
    payload: z.object({ secret_id: uuid, limit, cursor: cursor.optional() }),
    reply: page(versionView),
    codes: ["SECRET_NOT_FOUND", "CURSOR_INVALID"],
  }),
  readVersion: defineRequest({
    owner: "secrets",
    name: "secrets.version.read.v1",
    summary: "Read material back, sealed to the asker's key. Needs `secrets.read`; each reading is audited.",
    payload: z.object({
      secret_id: uuid,
      version: secretVersion.optional(),
      recipient: z.object({ x: publicKeyX }),
    }),
    reply: z.object({ version: secretVersion, sealed }),
    codes: ["SECRET_NOT_FOUND", "SECRET_VERSION_NOT_FOUND", ...vaultCodes],
  }),
  rotateSecret: defineRequest({
    owner: "secrets",
    name: "secrets.secret.rotate.v1",
    summary:
      "Replace a secret's value, by a given or a generated one, and have its VMs told; a follow-up that fails takes it back.",
    payload: z.object({
      secret_id: uuid,
      value: z.union([z.object({ sealed }), z.object({ generate: generator })]),
      ...rotationOptions,
      idempotency_key: idempotencyKey.optional(),
    }),
    payloadBytesMax: sealedBytesMax,
    reply: z.object({
      secret: secretView,
      version: versionView,
      /** Null where there is nothing to follow. */
      rotation: rotationView.nullable(),
      replayed: z.boolean(),
    }),
    codes: [
      "ROTATION_RUNNING",
      "SECRET_NOT_FOUND",
      "SECRET_VERSIONS_TOO_MANY",
      "SEALING_KEY_UNKNOWN",
      "IDEMPOTENCY_KEY_REUSED",
      ...vaultCodes,
    ],
  }),
  ...rotationRequests,
  createBinding: defineRequest({
    owner: "secrets",
    name: "secrets.binding.create.v1",
    summary:
      "Let a VM, the VMs with some labels, or a project's commands have a secret, and say how it reaches them.",
    payload: z.object({ binding: newBinding, idempotency_key: idempotencyKey.optional() }),
    reply: z.object({ binding: bindingView, replayed: z.boolean() }),
    codes: ["SECRET_NOT_FOUND", "BINDING_ALREADY_EXISTS", "BINDINGS_TOO_MANY", "IDEMPOTENCY_KEY_REUSED"],
  }),
  listBindings: defineRequest({
    owner: "secrets",
    name: "secrets.binding.list.v1",
    summary: "List bindings, newest first.",
    payload: z.object({ filter: bindingFilter, limit, cursor: cursor.optional() }),
    reply: page(bindingView),
    codes: ["CURSOR_INVALID"],
  }),
  removeBinding: defineRequest({
    owner: "secrets",
    name: "secrets.binding.remove.v1",
    summary: "Remove a binding: from now on it gives nothing to anybody.",
    payload: z.object({ binding_id: uuid }),
    reply: bindingView,
    codes: ["BINDING_NOT_FOUND"],
  }),
  listLeases: defineRequest({
    owner: "secrets",
    name: "secrets.lease.list.v1",
    summary: "List leases, newest first: which attempt was given which version of what.",
    payload: z.object({ filter: leaseFilter, limit, cursor: cursor.optional() }),
    reply: page(leaseView),
    codes: ["CURSOR_INVALID"],
  }),
  revokeLease: defineRequest({
    owner: "secrets",
    name: "secrets.lease.revoke.v1",
    summary: "Give nothing more by a lease. What its command has it has: cancel that. Again is harmless.",
    payload: z.object({ lease_id: uuid }),
    reply: leaseView,
    codes: ["LEASE_NOT_FOUND"],
  }),
  sweepSecrets: defineRequest({
    owner: "secrets",
    name: "secrets.leases.sweep.v1",
    callers: ["reliability"],
    summary: "End leases that have expired, and clear away what a crash has left half done.",
    payload: z.object({ limit: z.number().int().min(1).max(10_000) }),
    reply: z.object({
      expired: z.number().int().min(0),
      cleared: z.number().int().min(0),
      more: z.boolean(),
    }),
    codes: [],
    timeoutMs: 60_000,
    identity: "none",
  }),
} as const;
