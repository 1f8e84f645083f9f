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

/** A moment to compare with. PostgreSQL has no year 0. */
export const moment = timestamp.refine((text) => !text.startsWith("0000"), "must be of year 1 or later");

/** Text that others chose, as far as a database takes it: no NUL, no half of a surrogate pair. */
export const plainText = z
  .string()
  .refine((text) => !/[\0\p{Cs}]/u.test(text), "must not contain NUL or half of a surrogate pair");

/** Lower-case hex SHA-256. */
export const sha256 = z.string().regex(/^[0-9a-f]{64}$/, "must be a lower-case hex SHA-256");

let lastMs = 0;
let lastMsHex = "";
let sequence = 0;

const hexOfByte = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"));
const randomBytesPerUuid = 10;
/** Random bytes are fetched many at a time: asking for a few costs as much. */
const pool = new Uint8Array(randomBytesPerUuid * 256);
let used = pool.length;

/** A UUIDv7 (RFC 9562 §5.7); ids made in one process sort in the order of their making. */
export function uuidv7(nowMs: number = Date.now()): string {
  if (used === pool.length) {
    crypto.getRandomValues(pool);
    used = 0;
  }
  const at = used;
  used += randomBytesPerUuid;
  const random = (n: number): number => pool[at + n]!;
  if (nowMs > lastMs) {
    lastMs = nowMs;
    lastMsHex = "";
    sequence = ((random(0) & 0x07) << 8) | random(1);
  } else if (++sequence > 0xfff) {
    lastMs += 1;
    lastMsHex = "";
    sequence = 0;
  }
  if (lastMsHex === "") lastMsHex = Math.floor(lastMs).toString(16).padStart(12, "0");
  const hex = (n: number): string => hexOfByte[random(n)]!;
  const time = `${lastMsHex.slice(0, 8)}-${lastMsHex.slice(8)}`;
  const counted = (0x7000 | sequence).toString(16);
  const variant = hexOfByte[(random(2) & 0x3f) | 0x80]!;
  return `${time}-${counted}-${variant}${hex(3)}-${hex(4)}${hex(5)}${hex(6)}${hex(7)}${hex(8)}${hex(9)}`;
}
