import { createHash } from "node:crypto";
import { MusterError } from "@muster/contracts/errors";
import type { Principal } from "@muster/contracts/principal";
import type { Origin } from "@muster/identity/claims";
import { Lru } from "./lru.ts";

export interface Exchanged {
  readonly token: string;
  readonly principal: Principal;
  readonly expiresAtMs: number;
  readonly origin: Origin;
}

export interface ApiKeysOptions {
  /** Asks auth; throws MusterError. */
  readonly exchange: (asked: { prefix: string; key_sha256: string; client_address?: string }) => Promise<{
    access_token: string;
    expires_in_seconds: number;
    principal: Principal;
    origin: Origin;
  }>;
  /** Whether the token was revoked, as far as is known. */
  readonly isVoid: (exchanged: Exchanged) => boolean;
  /** How long an answer is used at most. */
  readonly ttlMs: number;
  /** How long a refusal is used. */
  readonly refusedTtlMs: number;
  readonly keysMax: number;
  /** Milliseconds since 1970. */
  readonly now: () => number;
}

/** A token is passed on only while it has this much left: it must arrive, and may wait in a queue. */
export const expiryMarginMs = 15_000;

/** API keys to access tokens. Keeps hashes of keys only; a key that many requests bring is asked for once. */
export class ApiKeys {
  readonly #o: ApiKeysOptions;
  readonly #known: Lru<{ exchanged: Exchanged; freshUntilMs: number; epoch: number }>;
  readonly #refused: Lru<{ error: MusterError; untilMs: number }>;
  readonly #flights = new Map<string, Promise<Exchanged>>();
  /** What was exchanged in an earlier one is asked for again. */
  #epoch = 0;

  constructor(o: ApiKeysOptions) {
    this.#o = o;
    this.#known = new Lru(o.keysMax);
    this.#refused = new Lru(o.keysMax);
  }

  /**
   * `address`: the client's, whose failures auth counts. Throws INVALID_OR_MISSING_BEARER_TOKEN, RATE_LIMITED, or
   * DEPENDENCY_UNAVAILABLE when auth does not answer.
   */
  tokenFor(apiKey: string, address?: string): Exchanged | Promise<Exchanged> {
    const hash = hashOf(apiKey);
    const nowMs = this.#o.now();
    const known = this.#known.get(hash);
    if (
      known !== undefined &&
      known.epoch === this.#epoch &&
      known.freshUntilMs > nowMs &&
      !this.#o.isVoid(known.exchanged)
    ) {
      return known.exchanged;
    }
    const refused = this.#refused.get(hash);
    if (refused !== undefined && refused.untilMs > nowMs) throw refused.error;
    // Whoever has a key that was good a moment ago guesses nothing: what others do at his address is not held against it.
    const from = known === undefined ? address : undefined;
    return this.#flights.get(flightOf(hash, from)) ?? this.#ask(apiKey, hash, from);
  }

  /** Another token than this one, which was refused; undefined where auth still gives the same. Throws as `tokenFor`. */
  async renewed(apiKey: string, refusedToken: string): Promise<Exchanged | undefined> {
    const hash = hashOf(apiKey);
    // What was under way when we came may be older than the refusal; what follows it is not.
    for (let turn = 0; turn < 2; turn++) {
      const known = this.#known.get(hash);
      if (known?.exchanged.token === refusedToken) this.#known.set(hash, { ...known, freshUntilMs: 0 });
      const exchanged = await this.tokenFor(apiKey);
      if (exchanged.token !== refusedToken) return exchanged;
    }
    return undefined;
  }

  /** Every key is asked for again: a key that signed some of the tokens was revoked. */
  forgetTokens(): void {
    this.#epoch += 1;
    this.#flights.clear();
  }

  /** Nobody waits for what another address asked: its refusal may be of that address. */
  #ask(apiKey: string, hash: string, address: string | undefined): Promise<Exchanged> {
    const name = flightOf(hash, address);
    const current = () => this.#flights.get(name) === flight;
    const flight = this.#exchange(apiKey, hash, address, current);
    this.#flights.set(name, flight);
    return flight.finally(() => {
      if (current()) this.#flights.delete(name);
    });
  }

  /** `current`: nothing happened meanwhile that makes the answer one of the past. */
  async #exchange(
    apiKey: string,
    hash: string,
    address: string | undefined,
    current: () => boolean,
  ): Promise<Exchanged> {
    try {
      // What was answered before a change that was heard of meanwhile is of the past; what is asked after it is not.
      for (let turn = 0; turn < 3; turn++) {
        const askedAtMs = this.#o.now();
        const exchanged = await this.#exchangeOnce(apiKey, hash, address, askedAtMs);
        if (this.#o.isVoid(exchanged)) continue;
        const freshUntilMs = Math.min(askedAtMs + this.#o.ttlMs, exchanged.expiresAtMs - expiryMarginMs);
        if (current()) this.#known.set(hash, { exchanged, freshUntilMs, epoch: this.#epoch });
        this.#refused.delete(hash);
        return exchanged;
      }
      throw new Error("auth gives tokens that are revoked");
    } catch (error) {
      throw this.#kept(hash, error);
    }
  }

  async #exchangeOnce(
    apiKey: string,
    hash: string,
    address: string | undefined,
    askedAtMs: number,
  ): Promise<Exchanged> {
    const prefix = apiKey.split("_", 2)[1] ?? "";
    const from = address === undefined ? {} : { client_address: address };
    const answer = await this.#o.exchange({ prefix, key_sha256: hash, ...from });
    return {
      token: answer.access_token,
      principal: Object.freeze(answer.principal),
      expiresAtMs: askedAtMs + answer.expires_in_seconds * 1_000,
      origin: answer.origin,
    };
  }

  #kept(hash: string, error: unknown): unknown {
    if (error instanceof MusterError && error.code === "RATE_LIMITED") return error;
    if (!(error instanceof MusterError) || error.code !== "INVALID_OR_MISSING_BEARER_TOKEN") {
      return authUnavailable(error);
    }
    this.#known.delete(hash);
    this.#refused.set(hash, { error, untilMs: this.#o.now() + this.#o.refusedTtlMs });
    return error;
  }
}

function hashOf(apiKey: string): string {
  return createHash("sha256").update(apiKey).digest("hex");
}

const flightOf = (hash: string, address: string | undefined): string => `${hash} ${address ?? ""}`;

/** That auth cannot be asked says nothing about the key: never 401. */
export function authUnavailable(cause: unknown): MusterError {
  if (cause instanceof MusterError && (cause.code === "BACKPRESSURE" || cause.code === "DRAINING"))
    return cause;
  return new MusterError(
    "DEPENDENCY_UNAVAILABLE",
    "Who you are cannot be checked now; retry after the time given.",
    {
      retryAfterMs: 1_000,
      cause,
    },
  );
}
