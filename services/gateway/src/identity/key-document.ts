import type { Jwks } from "@muster/contracts/auth";
import type { PublicDocument } from "@muster/http/server";
import { authUnavailable } from "./api-keys.ts";

export interface KeyDocumentOptions {
  readonly fetchKeys: () => Promise<Jwks>;
  readonly maxAgeMs: number;
  /** How long whoever reads it may use it. */
  readonly publicMaxAgeMs: number;
  /** How old an answer may be while auth is away. */
  readonly staleMaxMs: number;
  readonly now: () => number;
}

/** `/.well-known/jwks.json` (RFC 7517): the key set as it is, asked for by one flight at a time. */
export class KeyDocument {
  readonly #o: KeyDocumentOptions;
  #kept: { jwks: Jwks; atMs: number; fresh: boolean } | undefined;
  #flight: Promise<Jwks> | undefined;

  constructor(o: KeyDocumentOptions) {
    this.#o = o;
  }

  /** Throws DEPENDENCY_UNAVAILABLE when there is none to be had. */
  async read(): Promise<PublicDocument> {
    const kept = this.#kept;
    const isFresh = kept?.fresh === true && this.#o.now() - kept.atMs < this.#o.maxAgeMs;
    const jwks = isFresh ? kept.jwks : await (this.#flight ?? this.#fetch());
    const seconds = Math.floor(this.#o.publicMaxAgeMs / 1_000);
    return {
      type: "application/jwk-set+json",
      text: JSON.stringify(jwks),
      cacheControl: `public, max-age=${seconds}`,
    };
  }

  /** There is another set: the next one who reads gets it; while auth is away, the old one without the revoked keys. */
  changed(revoked: readonly string[] = []): void {
    // What is under way may have been read before the change.
    this.#flight = undefined;
    if (this.#kept === undefined) return;
    const keys = this.#kept.jwks.keys.filter(({ kid }) => !revoked.includes(kid));
    this.#kept = { ...this.#kept, jwks: { keys }, fresh: false };
  }

  #fetch(): Promise<Jwks> {
    const askedAtMs = this.#o.now();
    const flight: Promise<Jwks> = this.#o.fetchKeys().then(
      (jwks) => {
        if (this.#flight === flight) this.#kept = { jwks, atMs: askedAtMs, fresh: true };
        this.#end(flight);
        return jwks;
      },
      (error: unknown) => {
        this.#end(flight);
        const kept = this.#kept;
        if (kept !== undefined && this.#o.now() - kept.atMs < this.#o.staleMaxMs) return kept.jwks;
        throw authUnavailable(error);
      },
    );
    this.#flight = flight;
    return flight;
  }

  #end(flight: Promise<Jwks>): void {
    if (this.#flight === flight) this.#flight = undefined;
  }
}
