import { z } from "zod";

/** Tenant ids name broker objects and database settings: no dots, no commas, at most 63 characters. */
export const tenantId = z
  .string()
  .regex(/^[a-z0-9][a-z0-9-]{0,62}$/, "must be 1 to 63 of a-z, 0-9 and '-', not starting with '-'");

/** Lower-case UUID of any version; ids that we make are UUIDv7. */
export const uuid = z
  .string()
  .regex(/^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/, "must be a lower-case UUID");

/** RFC 3339 in UTC, milliseconds. */
export const timestamp = z.iso.datetime({ offset: false });

/** Lower-case hex SHA-256. */
export const sha256 = z.string().regex(/^[0-9a-f]{64}$/, "must be a lower-case hex SHA-256");

let lastMs = 0;
let sequence = 0;

/** A UUIDv7 (RFC 9562 §5.7); ids made in one process sort in the order of their making. */
export function uuidv7(nowMs: number = Date.now()): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  if (nowMs > lastMs) {
    lastMs = nowMs;
    sequence = ((bytes[6]! & 0x07) << 8) | bytes[7]!;
  } else if (++sequence > 0xfff) {
    lastMs += 1;
    sequence = 0;
  }
  const ms = lastMs;
  for (let i = 0; i < 6; i++) bytes[i] = Math.floor(ms / 2 ** (8 * (5 - i))) & 0xff;
  bytes[6] = 0x70 | (sequence >> 8);
  bytes[7] = sequence & 0xff;
  bytes[8] = (bytes[8]! & 0x3f) | 0x80;
  let hex = "";
  for (const byte of bytes) hex += byte.toString(16).padStart(2, "0");
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}
