import { KeySet, KeysUnavailable } from "@muster/identity/keys";
import { usableForeignKeys } from "@muster/identity/usable-keys";
import type { Logger } from "@muster/telemetry/logger";
import type { CryptoKey, FlattenedJWSInput, JSONWebKeySet, JWSHeaderParameters } from "jose";
import { z } from "zod";
import type { Networks } from "./addresses.ts";
import type { TrustedIssuer } from "./claims.ts";
import { fetchJson } from "./fetch.ts";

export interface IssuerKeysOptions {
  readonly networks: Networks;
  /** For discovery and keys together. */
  readonly timeoutMs: number;
  /** Age at which a set is fetched again, in the background. */
  readonly maxAgeMs: number;
  /** How old a set may serve while its issuer is away. */
  readonly staleMaxMs: number;
  /** Least time between fetches for unknown kids of one issuer. */
  readonly cooldownMs?: number;
  /** Sets that are kept. */
  readonly setsMax?: number;
  readonly logger: Logger;
  /** Milliseconds since 1970. */
  readonly now?: () => number;
}

/**
 * Who may wait for an issuer that is slow, at once: the rest is told to come again. auth answers 32 such requests at once, and
 * no tenant's issuer may hold them all.
 */
const waitingMax = { ofTenant: 8, ofAll: 24 };
const keysMax = 100;

const discovered = z.looseObject({ issuer: z.string(), jwks_uri: z.string().max(2_048) });
const keyDocument = z.looseObject({ keys: z.array(z.unknown()).max(keysMax) });

/** The keys of outside issuers, fetched when a token needs them. Those of one entry serve that entry and no other. */
export class IssuerKeys {
  readonly #o: IssuerKeysOptions;
  readonly #sets = new Map<string, KeySet>();
  readonly #waiting = new Map<string, number>();
  #waitingOfAll = 0;

  constructor(o: IssuerKeysOptions) {
    this.#o = o;
  }

  /** Throws KeysUnavailable when the issuer cannot be asked, a jose error when it has no such key. */
  find(issuer: TrustedIssuer, header: JWSHeaderParameters, token: FlattenedJWSInput): Promise<CryptoKey> {
    const set = this.#sets.get(issuer.id) ?? this.#open(issuer);
    // The least recently used goes first.
    this.#sets.delete(issuer.id);
    this.#sets.set(issuer.id, set);
    const oldest = this.#sets.keys().next();
    if (this.#sets.size > (this.#o.setsMax ?? 1_000) && !oldest.done) this.#sets.delete(oldest.value);
    return set.find(header, token);
  }

  #open(issuer: TrustedIssuer): KeySet {
    const { maxAgeMs, staleMaxMs, cooldownMs = 30_000, now = Date.now, logger } = this.#o;
    return new KeySet({
      fetchKeys: () => this.#fetch(issuer),
      maxAgeMs: Math.min(maxAgeMs, staleMaxMs),
      cooldownMs,
      staleMaxMs,
      now,
      usable: (set) => set,
      wait: (flight) => this.#wait(issuer.tenantId, flight),
      onFailed: (error) => {
        const { id, tenantId } = issuer;
        logger.warn(
          { err: error, tenant: tenantId, issuer: id },
          "cannot fetch the keys of an outside issuer",
        );
      },
      onChanged: () => undefined,
    });
  }

  async #fetch(issuer: TrustedIssuer): Promise<JSONWebKeySet> {
    const { networks, timeoutMs } = this.#o;
    const signal = AbortSignal.timeout(timeoutMs);
    const address = issuer.jwksUri ?? (await this.#discover(issuer.issuer, signal));
    const { keys } = keyDocument.parse(await fetchJson(address, networks, signal));
    return usableForeignKeys({ keys }, issuer.algorithms);
  }

  /** OpenID Connect Discovery 1.0 §4: the document must be of this very issuer. */
  async #discover(issuer: string, signal: AbortSignal): Promise<string> {
    const address = `${issuer.replace(/\/$/, "")}/.well-known/openid-configuration`;
    const said = discovered.parse(await fetchJson(address, this.#o.networks, signal));
    if (said.issuer !== issuer) throw new Error(`${address} is of another issuer`);
    return said.jwks_uri;
  }

  async #wait(tenantId: string, flight: Promise<void>): Promise<void> {
    const ofTenant = this.#waiting.get(tenantId) ?? 0;
    if (ofTenant >= waitingMax.ofTenant || this.#waitingOfAll >= waitingMax.ofAll) {
      throw new KeysUnavailable("too many wait for this issuer's keys");
    }
    this.#waiting.set(tenantId, ofTenant + 1);
    this.#waitingOfAll += 1;
    try {
      await flight;
    } finally {
      this.#waitingOfAll -= 1;
      const left = (this.#waiting.get(tenantId) ?? 1) - 1;
      if (left === 0) this.#waiting.delete(tenantId);
      else this.#waiting.set(tenantId, left);
    }
  }
}
