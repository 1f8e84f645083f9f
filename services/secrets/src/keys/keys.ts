import { createHash, hkdfSync } from "node:crypto";

export const keyBytes = 32;

/** A key-encryption key; it is in no table, log or message. */
export interface KeyEncryptionKey {
  /** Names the key without telling it: 16 hex digits. */
  readonly id: string;
  readonly bytes: Buffer;
  /** A key for one purpose that tells nothing of this one. */
  derive(purpose: string): Buffer;
}

/** `current` seals, all open. What `previous` sealed is sealed anew; `next` will be the current one. */
export interface Keys {
  readonly current: KeyEncryptionKey;
  readonly previous: KeyEncryptionKey | undefined;
  readonly all: readonly KeyEncryptionKey[];
}

/** Throws RangeError for what is no key. */
export function keyOf(bytes: Buffer): KeyEncryptionKey {
  if (bytes.length !== keyBytes) throw new RangeError(`a key-encryption key has ${keyBytes} bytes`);
  return {
    id: createHash("sha256").update("muster.secrets.kek:").update(bytes).digest("hex").slice(0, 16),
    bytes,
    derive: (purpose) => Buffer.from(hkdfSync("sha256", bytes, Buffer.alloc(0), purpose, keyBytes)),
  };
}

export function keysOf(
  current: Buffer,
  o: { previous?: Buffer | undefined; next?: Buffer | undefined } = {},
): Keys {
  const first = keyOf(current);
  const previous = o.previous === undefined ? undefined : keyOf(o.previous);
  const next = o.next === undefined ? undefined : keyOf(o.next);
  return { current: first, previous, all: [first, previous, next].filter((key) => key !== undefined) };
}

export const findKey = (keys: Keys, id: string): KeyEncryptionKey | undefined =>
  keys.all.find((key) => key.id === id);

export const keyRule = `${keyBytes} bytes in base64, as \`openssl rand -base64 32\` prints`;

/** Undefined for what is no key. */
export function keyFromText(text: string): Buffer | undefined {
  const bytes = Buffer.from(text, "base64");
  return bytes.length === keyBytes && bytes.toString("base64") === text ? bytes : undefined;
}
