import type { z } from "zod";
import { VaultError } from "../vault.ts";
import type { VaultFault } from "../vault.ts";
import type { Answer } from "./client.ts";

/** Says nothing of what was answered: that may be material. */
export function jsonOf(answer: Answer): unknown {
  try {
    return JSON.parse(answer.text) as unknown;
  } catch {
    throw new VaultError("garbled", `it answers ${answer.status} with what is not JSON`);
  }
}

export function parsed<S extends z.ZodType>(answer: Answer, schema: S): z.output<S> {
  const result = schema.safeParse(jsonOf(answer));
  if (result.success) return result.data;
  throw new VaultError("garbled", `it answers ${answer.status} with what was not asked for`);
}

/** A status that nothing particular is known of. 412, 472 and 473 are Vault's, for a node that is behind or is a replica. */
export function faultOfStatus(status: number): VaultFault {
  if (status >= 500) return "unavailable";
  if ([408, 412, 425, 429, 472, 473].includes(status)) return "unavailable";
  return status >= 300 ? "refused" : "garbled";
}

export function unexpected(answer: Answer, more = ""): VaultError {
  const { status, retryAfterMs } = answer;
  const redirect =
    status >= 300 && status < 400 ? ", which is not followed: give the vault's own address" : "";
  return new VaultError(faultOfStatus(status), `it answers ${status}${redirect}${more}`, { retryAfterMs });
}
