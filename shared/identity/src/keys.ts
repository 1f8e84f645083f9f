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
  /** Which keys of a set may verify; by default those of our own issuer. */
  readonly usable?: (set: JSONWebKeySet) => JSONWebKeySet;
  /** Through it whoever has to waits for a fetch; it may throw KeysUnavailable instead. */
  readonly wait?: (flight: Promise<void>) => Promise<void>;
}

/** Without any usable set, a failed fetch is not repeated within this. */
const unavailableRetryMs = 500;
/** More than will ever be revoked while a process runs. */
const revokedMax = 1_000;

type KeyOf = (header?: JWSHeaderParameters, token?: FlattenedJWSInput) => Promise<CryptoKey>;

/** The key set could not be had: nothing is known about the token. */
export class KeysUnavailable extends Error {
  override readonly name = "KeysUnavailable";
}

/** The issuer's public keys, fetched by one flight at a time and kept; keys inside tokens are never used. */
export class KeySet {
  readonly #o: KeySetOptions;
  #keys: { find: KeyOf; set: JSONWebKeySet; text: string; fetchedAtMs: number } | undefined;
  #flight: Promise<void> | undefined;
  #triedAtMs = -Infinity;
  /** When a fetch for an unknown kid began, and whether it failed. */
  #unknown = { atMs: -Infinity, failed: false };
  /** No set that is fetched brings these back: it may have been read before they were revoked. */
  readonly #revoked = new Set<string>();

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
      if (header.kid !== undefined && this.#revoked.has(header.kid)) throw error;
      return await this.#findUnknown(header, token, error);
    }
  }

  /** A key that is newer than our set, or none at all. */
  async #findUnknown(
    header: JWSHeaderParameters,
    token: FlattenedJWSInput,
    missing: Error,
  ): Promise<CryptoKey> {
    if (this.#flight !== undefined) {
      await this.#wait(this.#flight.catch(() => undefined));
      try {
        return await this.#current().find(header, token);
      } catch (error) {
        // What was under way may have been read before the key was published.
        if (!(error instanceof errors.JWKSNoMatchingKey)) throw error;
      }
    }
    const waitMs = this.#unknown.failed ? unavailableRetryMs : this.#o.cooldownMs;
    if (this.#o.now() - this.#unknown.atMs < waitMs) {
      if (this.#unknown.failed)
        throw new KeysUnavailable("the issuer's keys could not be fetched a moment ago");
      throw missing;
    }
    this.#unknown = { atMs: this.#o.now(), failed: false };
    try {
      await this.#wait(this.#fetch());
    } catch (cause) {
      this.#unknown = { ...this.#unknown, failed: true };
      throw new KeysUnavailable("the issuer's keys cannot be fetched", { cause });
    }
    return await this.#current().find(header, token);
  }

  /** Fetches what is there from now on: what is under way may have been read before. */
  async reload(): Promise<void> {
    await this.#flight?.catch(() => undefined);
    await this.#fetch();
  }

  /** These verify nothing any more, whatever is fetched. */
  revoke(kids: readonly string[]): void {
    for (const kid of kids) this.#revoked.add(kid);
    for (const kid of this.#revoked) {
      if (this.#revoked.size <= revokedMax) break;
      this.#revoked.delete(kid);
    }
    if (this.#keys !== undefined) this.#take(this.#keys.set, this.#keys.fetchedAtMs);
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
    await this.#wait(this.#fetch()).catch((cause: unknown) => {
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

  async #wait(flight: Promise<void>): Promise<void> {
    // Whoever may not wait leaves the flight to the others.
    flight.catch(() => undefined);
    await (this.#o.wait === undefined ? flight : this.#o.wait(flight));
  }

  #fetch(): Promise<void> {
    this.#flight ??= this.#fetchOnce().finally(() => (this.#flight = undefined));
    return this.#flight;
  }

  async #fetchOnce(): Promise<void> {
    const startedAtMs = this.#o.now();
    this.#triedAtMs = startedAtMs;
    try {
      // As old as the question: what came into being while it was answered may be missing.
      this.#take(await this.#o.fetchKeys(), startedAtMs);
    } catch (error) {
      this.#o.onFailed(error);
      throw error;
    }
  }

  #take({ keys }: JSONWebKeySet, fetchedAtMs: number): void {
    const set = { keys: keys.filter(({ kid }) => kid === undefined || !this.#revoked.has(kid)) };
    const text = JSON.stringify(set);
    const changed = this.#keys !== undefined && this.#keys.text !== text;
    this.#keys = { find: createLocalJWKSet((this.#o.usable ?? usableKeys)(set)), set, text, fetchedAtMs };
    if (changed) this.#o.onChanged();
  }
}
