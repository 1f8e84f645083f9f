import { once } from "@muster/service/closing";
import type { Closeable } from "@muster/service/closing";
import type { Logger } from "@muster/telemetry/logger";
import { z } from "zod";
import { parsed, unexpected } from "../http/answers.ts";
import type { Answer, HttpClient } from "../http/client.ts";
import { VaultError } from "../vault.ts";
import type { Credentials } from "./credentials.ts";

const tokenText = z.string().regex(/^[\x21-\x7e]{1,8192}$/);
const seconds = z.number().min(0).max(1e10);
const loginAnswer = z.object({
  auth: z.object({ client_token: tokenText, lease_duration: seconds, renewable: z.boolean() }),
});
const renewAnswer = z.object({ auth: z.object({ lease_duration: seconds, renewable: z.boolean() }) });
const lookupAnswer = z.object({ data: z.object({ ttl: seconds, renewable: z.boolean().default(false) }) });

interface Held {
  readonly token: string;
  /** Of performance.now(); Infinity for a token without end. */
  readonly untilMs: number;
  /** What the first lease was; renewals near the end of a token's life give less. */
  readonly fullMs: number;
  readonly renewable: boolean;
}

const timerMaxMs = 2 ** 31 - 1;
const soonMs = 1_000;
const revokeTimeoutMs = 1_000;

/**
 * The token that we have at Vault. Whoever asks while there is none waits for one login; it is renewed at two thirds of its lease, and
 * taken anew where renewing gives little more: it nears its greatest age.
 */
export class Session implements Closeable {
  readonly #http: HttpClient;
  readonly #credentials: Credentials;
  readonly #headers: Readonly<Record<string, string>>;
  readonly #timeoutMs: number;
  readonly #logger: Logger;
  readonly #closing = new AbortController();
  #held: Held | undefined;
  #taking: Promise<Held> | undefined;
  #replacing: Promise<string | undefined> | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(o: {
    http: HttpClient;
    credentials: Credentials;
    headers: Readonly<Record<string, string>>;
    timeoutMs: number;
    logger: Logger;
  }) {
    this.#http = o.http;
    this.#credentials = o.credentials;
    this.#headers = o.headers;
    this.#timeoutMs = o.timeoutMs;
    this.#logger = o.logger;
  }

  async token(signal: AbortSignal): Promise<string> {
    const held = this.#held;
    if (held !== undefined && held.untilMs > performance.now()) return held.token;
    return (await within(this.#take(), signal)).token;
  }

  /** After a 403: another token than the refused one. Undefined where Vault still knows that one: then the refusal was meant. */
  async replace(refused: string, signal: AbortSignal): Promise<string | undefined> {
    const held = this.#held;
    if (held !== undefined && held.token !== refused) return held.token;
    this.#replacing ??= this.#replace(refused).finally(() => {
      this.#replacing = undefined;
    });
    return await within(this.#replacing, signal);
  }

  async #replace(refused: string): Promise<string | undefined> {
    const known = await this.#ask("GET", "/auth/token/lookup-self", refused);
    if (known.status === 200) return undefined;
    if (known.status !== 403) throw unexpected(known);
    this.#held = undefined;
    const { token } = await this.#take();
    return token === refused ? undefined : token;
  }

  /** One at a time, for all who wait: nobody's signal ends it. */
  #take(): Promise<Held> {
    this.#taking ??= this.#obtain()
      .then((held) => this.#hold(held))
      .finally(() => {
        this.#taking = undefined;
      });
    return this.#taking;
  }

  async #obtain(): Promise<Held> {
    if (this.#credentials.kind === "token") return await this.#lookUp(await this.#credentials.token());
    const { path, body } = this.#credentials;
    const answer = await this.#ask("POST", path, undefined, await body());
    if (answer.status !== 200) throw unexpected(answer, " to our login");
    const { auth } = parsed(answer, loginAnswer);
    return heldFor(auth.client_token, auth.lease_duration, auth.renewable);
  }

  async #lookUp(token: string): Promise<Held> {
    const answer = await this.#ask("GET", "/auth/token/lookup-self", token);
    // A token may be forbidden to look at itself: what it is used for tells.
    if (answer.status === 403) return heldFor(token, 0, false);
    if (answer.status !== 200) throw unexpected(answer);
    const { data } = parsed(answer, lookupAnswer);
    return heldFor(token, data.ttl, data.renewable);
  }

  #hold(held: Held): Held {
    this.#held = held;
    this.#arm((held.untilMs - performance.now()) * (2 / 3));
    return held;
  }

  #arm(inMs: number): void {
    clearTimeout(this.#timer);
    if (inMs > timerMaxMs || this.#closing.signal.aborted) return;
    this.#timer = setTimeout(() => void this.#refresh(), Math.max(0, inMs));
    this.#timer.unref();
  }

  async #refresh(): Promise<void> {
    try {
      const held = this.#held;
      const renewed = held?.renewable === true ? await this.#renew(held) : undefined;
      if (renewed !== undefined) {
        this.#hold(renewed);
        return;
      }
      const { token } = await this.#take();
      if (token !== held?.token) return;
      clearTimeout(this.#timer);
      this.#logger.warn("the vault's token cannot be renewed any more; give another one before it ends");
    } catch (error) {
      if (this.#closing.signal.aborted) return;
      this.#logger.warn({ err: error }, "the vault's token was not renewed; it is tried again");
      this.#arm(soonMs);
    }
  }

  /** Undefined where the token does not live on: it is unknown, or nears its greatest age. */
  async #renew(held: Held): Promise<Held | undefined> {
    const answer = await this.#ask("POST", "/auth/token/renew-self", held.token, {});
    if (answer.status === 400 || answer.status === 403) return undefined;
    if (answer.status !== 200) throw unexpected(answer);
    const { auth } = parsed(answer, renewAnswer);
    if (auth.lease_duration * 1_000 < held.fullMs / 2) return undefined;
    return { ...heldFor(held.token, auth.lease_duration, auth.renewable), fullMs: held.fullMs };
  }

  #ask(method: "GET" | "POST", path: string, token: string | undefined, body?: object): Promise<Answer> {
    const headers = { ...this.#headers, ...(token === undefined ? {} : { "x-vault-token": token }) };
    const signal = AbortSignal.any([this.#closing.signal, AbortSignal.timeout(this.#timeoutMs)]);
    return this.#http.ask({
      method,
      path: `/v1${path}`,
      headers,
      signal,
      ...(body === undefined ? {} : { body }),
    });
  }

  /** What a login gave is given back. */
  readonly close = once(async () => {
    clearTimeout(this.#timer);
    this.#closing.abort();
    await this.#taking?.catch(() => undefined);
    const held = this.#held;
    this.#held = undefined;
    if (held === undefined || this.#credentials.kind === "token") return;
    const headers = { ...this.#headers, "x-vault-token": held.token };
    const signal = AbortSignal.timeout(revokeTimeoutMs);
    await this.#http
      .ask({ method: "POST", path: "/v1/auth/token/revoke-self", headers, signal })
      // It ends by itself.
      .catch(() => undefined);
  });
}

/** Of Vault, a lease of 0 is one without end. */
function heldFor(token: string, leaseSeconds: number, renewable: boolean): Held {
  const fullMs = leaseSeconds === 0 ? Infinity : leaseSeconds * 1_000;
  return { token, untilMs: performance.now() + fullMs, fullMs, renewable };
}

/** The caller's signal ends the caller's wait, not the work. */
async function within<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  const givenUp = () => new VaultError("unavailable", "it did not let us log in before it was given up");
  if (signal.aborted) {
    work.catch(() => undefined);
    throw givenUp();
  }
  let stop: (() => void) | undefined;
  const stopped = new Promise<never>((_, reject) => {
    stop = () => reject(givenUp());
    signal.addEventListener("abort", stop, { once: true });
  });
  try {
    return await Promise.race([work, stopped]);
  } finally {
    if (stop !== undefined) signal.removeEventListener("abort", stop);
  }
}
