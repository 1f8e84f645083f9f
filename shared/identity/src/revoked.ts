import type { TokenRevocation } from "@muster/contracts/token-revocations";
import type { Verified } from "./claims.ts";
import { openRefresher } from "./refresher.ts";
import { Revocations } from "./revocations.ts";
import type { RevocationsOptions } from "./revocations.ts";
import type { VerifierOptions } from "./verify.ts";

/** What a verifier knows of tokens that are void though they live. */
export interface Revoked extends Pick<Revocations, "wait"> {
  isVoid(token: Pick<Verified, "principal" | "origin">): boolean;
  /** This is void from now on; without it: some may have been missed, and the list is read anew, until it comes. */
  heard(revocation?: TokenRevocation): void;
  close(): void;
}

/** The list is as old as keys may be, and serves as long as they do while the issuer is away. */
export function openRevoked(
  o: Pick<VerifierOptions, "fetchRevocations" | "revokedSubjectsMax" | "logger" | "metrics">,
  ages: Pick<RevocationsOptions, "maxAgeMs" | "staleMaxMs" | "now">,
): Revoked {
  const revocations = new Revocations({
    ...ages,
    fetchPage: o.fetchRevocations,
    subjectsMax: o.revokedSubjectsMax ?? 50_000,
    onFailed: (error) => o.logger.warn({ err: error }, "cannot read the issuer's revocations"),
    metrics: o.metrics,
  });
  const relister = openRefresher(revocations);
  return {
    wait: () => revocations.wait(),
    isVoid: (token) => revocations.voids(token),
    heard(revocation) {
      if (revocation !== undefined) return revocations.add([revocation]);
      revocations.missed();
      relister.wake();
    },
    close: () => relister.close(),
  };
}
