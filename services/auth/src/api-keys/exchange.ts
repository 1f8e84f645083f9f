import { authRequests } from "@muster/contracts/auth";
import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import type { Database } from "@muster/database/database";
import type { Credential, Limits, Outcome } from "../limits/limits.ts";
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
  readonly limits: Pick<Limits, "count">;
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
export function exchangeApiKeys({ database, keys, limits, signing, mint, now }: ExchangeDeps) {
  return async (items: readonly { readonly payload: PayloadOf<Exchange> }[]): Promise<Answer[]> => {
    const prefixes = [...new Set(items.map(({ payload }) => payload.prefix))];
    const atMs = now();
    const { looked, kid } = await database.transaction("system", async (tx) => {
      const rows = new Map((await keys.findByPrefixes(tx, prefixes)).map((row) => [row.prefix, row]));
      const found = items.map(({ payload }) => {
        const row = rows.get(payload.prefix);
        return { row, holds: fits(row, payload.key_sha256) ? row : undefined };
      });
      const outcomes = items.map(({ payload }, at) => outcomeOf(payload, found[at]!));
      const refusals = await limits.count(tx, authRequests.exchangeApiKey, outcomes);
      const marked = found.flatMap(({ holds }, at) =>
        holds?.unmarked === true && refusals[at] === undefined ? holds.id : [],
      );
      if (marked.length > 0) await keys.markUsed(tx, [...new Set(marked)]);
      const answers = found.map(({ holds }, at) => refusals[at] ?? holds);
      return { looked: answers, kid: await signing.activeKid(tx) };
    });
    const key = await signing.keyOf(kid);
    return await Promise.all(
      looked.map(async (row) => {
        if (row === undefined) return new MusterError("INVALID_OR_MISSING_BEARER_TOKEN");
        if (row instanceof MusterError) return row;
        const principal = grantOf(row);
        const { token, expiresInSeconds } = await mint(row.id, principal, row.expiresAt, {
          key,
          atMs,
          origin: { asOf: row.asOf, via: [`api-key:${row.id}`] },
        });
        return { access_token: token, expires_in_seconds: expiresInSeconds, principal };
      }),
    );
  };
}

/** Who presented a key from where; `holds`: it is the key of this row and works. */
export function outcomeOf(
  asked: {
    readonly prefix: string;
    readonly client_id?: string | undefined;
    readonly client_address?: string | undefined;
  },
  { row, holds }: { readonly row: FoundKey | undefined; readonly holds: FoundKey | undefined },
): Outcome {
  const address = asked.client_address;
  if (holds !== undefined) {
    const subject = `${holds.kind}:${holds.principalId}`;
    return { address, failed: false, who: { tenantId: holds.tenantId, subject } };
  }
  const concerns = row === undefined ? undefined : { tenantId: row.tenantId, subject: `api-key:${row.id}` };
  const credentials: Credential[] = [{ name: `key:${asked.prefix}`, concerns }];
  if (asked.client_id !== undefined) {
    const own = row?.principalId === asked.client_id ? row : undefined;
    const client = own && { tenantId: own.tenantId, subject: `${own.kind}:${own.principalId}` };
    credentials.push({ name: `client:${asked.client_id}`, concerns: client });
  }
  return { address, failed: true, credentials };
}

/** Whether this is the key, and one that works; as long for an unknown one. */
export function fits(row: FoundKey | undefined, keySha256: string): row is FoundKey {
  const same = sameHash(row?.hash, storedHash(keySha256));
  return same && row !== undefined && row.usable;
}
