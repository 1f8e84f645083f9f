import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import type { Database } from "@muster/database/database";

const nonceBytes = 16;
const sealBytes = 32;

/**
 * Fencing tokens. A token is the claim's nonce under a seal of command, attempt and nonce: it is not stored, every
 * replica makes the same one for the same nonce, and one of an attempt long past is still known as once granted.
 */
export interface ClaimTokens {
  make(commandId: string, attempt: number, nonce: string): string;
  /** The nonce of the claim that this token was granted for; undefined when it was not for this attempt. */
  nonceOf(token: string, commandId: string, attempt: number): string | undefined;
}

/** The key is made by whichever replica starts first, and kept beside the commands. */
export async function openClaimTokens(database: Pick<Database, "transaction">): Promise<ClaimTokens> {
  const secret = await database.transaction("system", async (tx) => {
    await tx.query("INSERT INTO claim_key (secret) VALUES ($1) ON CONFLICT DO NOTHING", [randomBytes(32)]);
    const [row] = await tx.query<{ secret: Buffer }>("SELECT secret FROM claim_key");
    return row?.secret;
  });
  if (secret === undefined) throw new Error("the key of claim tokens can be neither made nor read");
  return makeClaimTokens(secret);
}

export function makeClaimTokens(secret: Buffer): ClaimTokens {
  const seal = (commandId: string, attempt: number, nonce: string): Buffer =>
    createHmac("sha256", secret).update(`${commandId}|${attempt}|${nonce}`).digest();
  return {
    make: (commandId, attempt, nonce) =>
      Buffer.concat([bytesOf(nonce), seal(commandId, attempt, nonce)]).toString("base64url"),
    nonceOf(token, commandId, attempt) {
      const bytes = Buffer.from(token, "base64url");
      if (bytes.length !== nonceBytes + sealBytes) return undefined;
      const nonce = textOf(bytes.subarray(0, nonceBytes));
      return timingSafeEqual(bytes.subarray(nonceBytes), seal(commandId, attempt, nonce)) ? nonce : undefined;
    },
  };
}

const bytesOf = (uuid: string): Buffer => Buffer.from(uuid.replaceAll("-", ""), "hex");

function textOf(bytes: Buffer): string {
  const hex = bytes.toString("hex");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}
