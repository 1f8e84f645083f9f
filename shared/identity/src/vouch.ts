import { MusterError } from "@muster/contracts/errors";
import type { Logger } from "@muster/telemetry/logger";
import type { Caller } from "./claims.ts";
import type { Asked, MeshSigner } from "./mesh-signer.ts";

const retryAfterMs = 1_000;

/**
 * Asks by a token of this process for that caller and request. An owner that does not take it (it has not heard of the key yet, or
 * clocks differ) refuses us and not the caller: asked once more by a new token, and then DEPENDENCY_UNAVAILABLE. What was refused
 * for its token had no effect.
 */
export async function vouching<T>(
  o: { readonly signer: Pick<MeshSigner, "mint" | "refused">; readonly logger: Logger },
  caller: Caller,
  asked: Asked,
  ask: (identity: string) => Promise<T>,
): Promise<T> {
  const { signer, logger } = o;
  try {
    return await ask(await signer.mint(caller, asked));
  } catch (error) {
    if (!isOfToken(error)) throw error;
  }
  await signer.refused();
  try {
    return await ask(await signer.mint(caller, asked));
  } catch (cause) {
    if (!isOfToken(cause)) throw cause;
    logger.error({ err: cause, type: asked.name }, "an owner does not take the tokens of this process");
    throw new MusterError("DEPENDENCY_UNAVAILABLE", undefined, { retryAfterMs, cause });
  }
}

/** The token is refused, not whom it is for nor what he brought: only the verifier of such tokens names this place. */
function isOfToken(error: unknown): boolean {
  if (!(error instanceof MusterError) || error.code !== "INVALID_OR_MISSING_BEARER_TOKEN") return false;
  return error.details.some(({ path }) => path === "identity");
}
