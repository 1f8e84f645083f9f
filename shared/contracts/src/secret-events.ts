import { z } from "zod";
import { defineEvent } from "./define.ts";
import { timestamp, uuid } from "./ids.ts";
import { secretVersion } from "./secret-references.ts";

export const secretChanges = [
  "created",
  "version_added",
  "rotated",
  "rotation_succeeded",
  "rotation_failed",
  "rolled_back",
  "disabled",
  "enabled",
  "deleted",
  "bound",
  "unbound",
  "read",
  "leased",
  "lease_revoked",
] as const;
export const secretChanged = defineEvent({
  owner: "secrets",
  name: "secrets.secret.changed.v1",
  summary: "Somebody made, changed, bound, read or was given a secret. What it is, is nowhere in it.",
  external: true,
  payload: z.object({
    secret_id: uuid,
    change: z.enum(secretChanges),
    version: secretVersion.nullable(),
    actor: z.string().max(200),
    at: timestamp,
  }),
});
export const secretsEvents = { secretChanged } as const;
