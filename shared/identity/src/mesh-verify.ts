import type { Service } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import {
  meshTokenAlgorithm,
  meshTokenAudience,
  meshTokenIssuer,
  meshTokenType,
} from "@muster/contracts/mesh-keys";
import type { MeshKeys } from "@muster/contracts/mesh-keys";
import type { Principal } from "@muster/contracts/principal";
import type { JSONWebKeySet } from "jose";
import { readMeshClaims } from "./claims.ts";
import type { VerifiedFor } from "./claims.ts";
import { asRefusal, asRevoked, NoToken, verifyCompact } from "./compact.ts";
import { KeySet } from "./keys.ts";
import { openRefresher } from "./refresher.ts";
import { openRevoked } from "./revoked.ts";
import { TokenCache } from "./token-cache.ts";
import { usableKeys } from "./usable-keys.ts";
import { openRefusals } from "./verify.ts";
import type { Verifier, VerifierOptions } from "./verify.ts";

export type MeshVerifierOptions = Omit<VerifierOptions, "fetchKeys" | "issuer" | "audience"> & {
  /** Whose requests the tokens must be for. */
  readonly service: Service;
  readonly fetchKeys: () => Promise<MeshKeys>;
};

/** What was asked, and which service asks, as the broker vouches for it. */
export interface AskedBy {
  /** Wire name. */
  readonly name: string;
  readonly asker: Service;
}

export interface MeshVerifier extends Pick<Verifier, "tokensRevoked" | "close"> {
  /**
   * For whom this request is asked, by the word of the service that asks. Throws and passes shadows as `Verifier.verify`. A
   * refusal of the asker's token names the place `identity`; one of what the token was made from, which was revoked, the place
   * of an access token.
   */
  verify(token: string | undefined, asked: AskedBy): Promise<Principal>;
  /** There is another key: the set is fetched anew, again and again until it comes. */
  keysChanged(): void;
}

interface Kept extends VerifiedFor {
  readonly asker: Service;
}

/** Of tokens between services. It has keys of its own, and knows each by the one service whose tokens it verifies. */
export function openMeshVerifier(o: MeshVerifierOptions): MeshVerifier {
  const now = o.now ?? Date.now;
  const cache = new TokenCache<Kept>(o.cacheTokensMax ?? 10_000);
  const staleMaxMs = o.staleMaxMs ?? 60 * 60_000;
  const ages = { maxAgeMs: Math.min(o.keysMaxAgeMs ?? 10 * 60_000, staleMaxMs), staleMaxMs, now };
  let epoch = 0;
  const { keys, serviceOf } = openKeys(o, ages, () => {
    epoch += 1;
    cache.clear();
  });
  const refresher = openRefresher(keys);
  const revoked = openRevoked(o, ages);
  const refused = openRefusals(o);
  const rules = {
    typ: meshTokenType,
    algorithms: [meshTokenAlgorithm],
    audience: meshTokenAudience(o.service),
    requiredClaims: ["exp", "iat", "nbf", "sub", "jti", "tenant_id", "req", "as_of", "via"],
    clockToleranceMs: o.clockToleranceMs ?? 5_000,
    now,
  };

  async function verified(token: string, { name, asker }: AskedBy): Promise<Kept> {
    const payload = await verifyCompact(token, {
      ...rules,
      issuer: meshTokenIssuer(asker),
      async find(header, jws) {
        const key = await keys.find(header, jws);
        if (serviceOf(header.kid) !== asker) throw new NoToken("by a key of another service");
        return key;
      },
    });
    const read = readMeshClaims(payload);
    if (read.req !== name) throw new NoToken("for another request");
    return { ...read, asker };
  }

  return {
    async verify(token, asked) {
      if (token === undefined || token === "")
        return refused(new MusterError("MISSING_BEARER_TOKEN"), asked.name);
      try {
        const waiting = revoked.wait();
        if (waiting !== undefined) await waiting;
        const before = epoch;
        const found = cache.get(token, now());
        const known = found?.req === asked.name && found.asker === asked.asker ? found : undefined;
        const kept = known ?? (await verified(token, asked));
        if (known === undefined && epoch === before) cache.put(token, kept);
        // Last: what was revoked while its signature was looked at counts.
        if (revoked.isVoid(kept)) throw asRevoked();
        return kept.principal;
      } catch (error) {
        return refused(asRefusal(error, "identity"), asked.name);
      }
    },
    keysChanged: () => refresher.wake(),
    tokensRevoked: (revocation) => revoked.heard(revocation),
    close() {
      refresher.close();
      revoked.close();
      cache.clear();
      return Promise.resolve();
    },
  };
}

/** The keys of all services that vouch, and whose each is. */
function openKeys(
  o: MeshVerifierOptions,
  ages: { maxAgeMs: number; staleMaxMs: number; now: () => number },
  onChanged: () => void,
) {
  let services: ReadonlyMap<string, string> = new Map();
  const keys = new KeySet({
    ...ages,
    fetchKeys: o.fetchKeys,
    // Only those ask whom the broker vouches for: an unknown kid is a process that has just started.
    cooldownMs: o.keysCooldownMs ?? 1_000,
    onFailed: (error) => o.logger.warn({ err: error }, "cannot fetch the keys of the mesh"),
    onChanged,
    usable: (set) => {
      const usable = usableKeys(set).keys.filter(({ alg }) => alg === meshTokenAlgorithm);
      services = new Map(usable.map((key) => [String(key.kid), String(Reflect.get(key, "service"))]));
      return { keys: usable } satisfies JSONWebKeySet;
    },
  });
  return { keys, serviceOf: (kid = "") => services.get(kid) };
}
