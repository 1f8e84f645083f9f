import { createLocalJWKSet, errors } from "jose";
import type { CryptoKey, FlattenedJWSInput, JSONWebKeySet, JWSHeaderParameters } from "jose";
import { usableKeys } from "./usable-keys.ts";

export interface KeySetOptions {
  readonly fetchKeys: () => Promise<JSONWebKeySet>;
  /** Age at which the set is fetched again. */
  readonly maxAgeMs: number;
  /** Least time between fetches for unknown kids; within it an unknown kid fails at once. */
  readonly cooldownMs: number;
  /** How old a set may still serve while fetching fails. */
  readonly staleMaxMs: number;
  readonly now: () => number;
  readonly onFailed: (error: unknown) => void;
  /** Other keys than before: what the old ones verified must be looked at again. */
  readonly onChanged: () => void;
}

/** Without any usable set, a failed fetch is not repeated within this. */
const unavailableRetryMs = 500;

type KeyOf = (header?: JWSHeaderParameters, token?: FlattenedJWSInput) => Promise<CryptoKey>;

/** The key set could not be had: nothing is known about the token. */
export class KeysUnavailable extends Error {
  override readonly name = "KeysUnavailable";
}

/** The issuer's public keys, fetched by one flight at a time and kept; keys inside tokens are never used. */
export class KeySet {
  readonly #o: KeySetOptions;
  #keys: { find: KeyOf; text: string; fetchedAtMs: number } | undefined;
  #flight: Promise<void> | undefined;
  #triedAtMs = -Infinity;

  constructor(o: KeySetOptions) {
    this.#o = o;
  }

  /** Throws KeysUnavailable when no set is to be had, a jose error when the set lacks the key. */
  async find(header: JWSHeaderParameters, token: FlattenedJWSInput): Promise<CryptoKey> {
    await this.#refreshWhenOld();
    try {
      return await this.#current().find(header, token);
    } catch (error) {
      if (!(error instanceof errors.JWKSNoMatchingKey)) throw error;
      if (this.#flight === undefined && this.#sinceTriedMs() < this.#o.cooldownMs) throw error;
      await this.#fetch().catch(() => undefined);
      return await this.#current().find(header, token);
    }
  }

  /** Fetches now, for an emergency revocation; joins a fetch that is under way. */
  reload(): Promise<void> {
    return this.#fetch();
  }

  async #refreshWhenOld(): Promise<void> {
    const ageMs = this.#keys === undefined ? Infinity : this.#o.now() - this.#keys.fetchedAtMs;
    if (ageMs < this.#o.maxAgeMs) return;
    if (ageMs < this.#o.staleMaxMs) {
      // A set that is old but usable serves on while a new one is fetched.
      const due = this.#flight === undefined && this.#sinceTriedMs() >= this.#o.cooldownMs;
      if (due) this.#fetch().catch(() => undefined);
      return;
    }
    if (this.#flight === undefined && this.#sinceTriedMs() < unavailableRetryMs) {
      throw new KeysUnavailable("the issuer's keys could not be fetched a moment ago");
    }
    await this.#fetch().catch((cause: unknown) => {
      throw new KeysUnavailable("the issuer's keys cannot be fetched", { cause });
    });
  }

  #sinceTriedMs(): number {
    return this.#o.now() - this.#triedAtMs;
  }

  #current(): { find: KeyOf } {
    if (this.#keys === undefined) throw new KeysUnavailable("the issuer's keys were never fetched");
    return this.#keys;
  }

  #fetch(): Promise<void> {
    this.#flight ??= this.#fetchOnce().finally(() => (this.#flight = undefined));
    return this.#flight;
  }

  async #fetchOnce(): Promise<void> {
    this.#triedAtMs = this.#o.now();
    try {
      const fetched = await this.#o.fetchKeys();
      const text = JSON.stringify(fetched);
      const changed = this.#keys !== undefined && this.#keys.text !== text;
      this.#keys = { find: createLocalJWKSet(usableKeys(fetched)), text, fetchedAtMs: this.#o.now() };
      if (changed) this.#o.onChanged();
    } catch (error) {
      this.#o.onFailed(error);
      throw error;
    }
  }
}
