import type { authRequests } from "@muster/contracts/auth";
import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import type { Database } from "@muster/database/database";
import type { Minted, SigningNow } from "../signing/minter.ts";
import type { SigningKeys } from "../signing/open-signing.ts";
import type { Principal } from "@muster/contracts/principal";
import { grantOf } from "./grant.ts";
import { sameHash, storedHash } from "./key.ts";
import type { ApiKeyStore, FoundKey } from "./store.ts";

type Exchange = (typeof authRequests)["exchangeApiKey"];
type Answer = ReplyInputOf<Exchange> | MusterError;

export interface ExchangeDeps {
  readonly database: Pick<Database, "transaction">;
  readonly keys: Pick<ApiKeyStore, "findByPrefixes" | "markUsed">;
  readonly signing: Pick<SigningKeys, "activeKid" | "keyOf">;
  /** A token for `principal`, perhaps one made before for the same `id`; not valid beyond `notAfter`. */
  readonly mint: (
    id: string,
    principal: Principal,
    notAfter: Date | null,
    signing: SigningNow,
  ) => Promise<Minted>;
  /** Milliseconds since 1970. */
  readonly now: () => number;
}

/**
 * Tokens for many keys by one look at the table, so that a revoked key gets none from then on, and
 * that whatever process answers signs with the key that is active now.
 * Unknown, wrong, expired and revoked keys get the same answer.
 */
export function exchangeApiKeys({ database, keys, signing, mint, now }: ExchangeDeps) {
  return async (items: readonly { readonly payload: PayloadOf<Exchange> }[]): Promise<Answer[]> => {
    const prefixes = [...new Set(items.map(({ payload }) => payload.prefix))];
    const atMs = now();
    const { found, kid } = await database.transaction("system", async (tx) => {
      const rows = new Map((await keys.findByPrefixes(tx, prefixes)).map((row) => [row.prefix, row]));
      const marked = new Set<string>();
      for (const { payload } of items) {
        const row = rows.get(payload.prefix);
        if (row?.unmarked === true && fits(row, payload.key_sha256)) marked.add(row.id);
      }
      if (marked.size > 0) await keys.markUsed(tx, [...marked]);
      return { found: rows, kid: await signing.activeKid(tx) };
    });
    const key = await signing.keyOf(kid);
    return await Promise.all(
      items.map(async ({ payload }) => {
        const row = found.get(payload.prefix);
        if (!fits(row, payload.key_sha256)) return new MusterError("INVALID_OR_MISSING_BEARER_TOKEN");
        const principal = grantOf(row);
        const { token, expiresInSeconds } = await mint(row.id, principal, row.expiresAt, {
          key,
          atMs,
        });
        return { access_token: token, expires_in_seconds: expiresInSeconds, principal };
      }),
    );
  };
}

/** Whether this is the key, and one that works; as long for an unknown one. */
export function fits(row: FoundKey | undefined, keySha256: string): row is FoundKey {
  const same = sameHash(row?.hash, storedHash(keySha256));
  return same && row !== undefined && row.usable;
}
