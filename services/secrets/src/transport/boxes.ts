import { MusterError, faultsOf } from "@muster/contracts/errors";
import { material as materialSchema, sealedFor } from "@muster/contracts/secrets";
import type { Material } from "@muster/contracts/secrets";
import { deriveBoxKey, NotOpened, open, recipientOf, seal } from "@muster/sealing/box";
import type { Keys } from "../keys/keys.ts";

const purpose = "muster.secrets.transport";

/** Opens what the gateway has sealed to any of our keys, and seals what goes back. */
export interface Boxes {
  /** The public key that material is to be sealed to. */
  readonly x: string;
  /** Throws SEALING_KEY_UNKNOWN, VALIDATION_FAILED. */
  openMaterial(box: string, tenantId: string): Promise<Material>;
}

export function openBoxes(keys: Keys): Boxes {
  const own = keys.all.map((key) => deriveBoxKey(key.bytes, purpose));
  const [current] = own;
  if (current === undefined) throw new RangeError("no key");
  return {
    x: current.x,
    async openMaterial(box, tenantId) {
      const recipient = recipientOf(box);
      const key = own.find(({ x }) => x === recipient);
      if (key === undefined) throw new MusterError("SEALING_KEY_UNKNOWN");
      return materialOf(await opened(box, { key, about: sealedFor.write(tenantId) }));
    },
  };
}

async function opened(box: string, o: Parameters<typeof open>[1]): Promise<Uint8Array> {
  try {
    return await open(box, o);
  } catch (error) {
    if (error instanceof NotOpened) throw invalid("sealed", "cannot be opened");
    throw error;
  }
}

/** Without any cause: an error of a parser may quote what it read. */
function materialOf(plain: Uint8Array): Material {
  const parsed = materialSchema.safeParse(jsonOf(plain));
  if (parsed.success) return parsed.data;
  const details = faultsOf(parsed.error, "material");
  throw new MusterError("VALIDATION_FAILED", undefined, { details });
}

function jsonOf(plain: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(plain).toString("utf8"));
  } catch {
    throw invalid("sealed", "is no JSON");
  }
}

/** Throws VALIDATION_FAILED for a key that nothing can be sealed to. */
export async function sealTo(x: string, about: string, value: unknown): Promise<string> {
  try {
    return await seal(Buffer.from(JSON.stringify(value)), { x, about });
  } catch {
    throw invalid("x", "must be a public key on X25519 of full order");
  }
}

function invalid(path: string, message: string): MusterError {
  return new MusterError("VALIDATION_FAILED", undefined, { details: [{ path, message }] });
}
