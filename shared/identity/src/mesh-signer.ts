import { createHash, generateKeyPairSync, sign } from "node:crypto";
import type { KeyObject } from "node:crypto";
import type { RequestContract, Service } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import {
  meshKeyProofText,
  meshTokenAlgorithm,
  meshTokenAudience,
  meshTokenIssuer,
  meshTokenMarginMs,
  meshTokenType,
} from "@muster/contracts/mesh-keys";
import type { Principal } from "@muster/contracts/principal";
import type { Logger } from "@muster/telemetry/logger";
import type { Gauge, Metrics } from "@muster/telemetry/metrics";
import type { Caller } from "./claims.ts";

/** A request as far as a token for it says. */
export type Asked = Pick<RequestContract, "name" | "owner" | "timeoutMs">;

export interface MeshSignerOptions {
  readonly service: Service;
  /** Tells the issuer of keys of this one, again and again; throws MusterError. */
  readonly register: (key: { x: string; proof: string }) => Promise<{ expires_in_seconds: number }>;
  readonly logger: Logger;
  readonly metrics: Metrics;
  readonly renewMs?: number;
  readonly retryMs?: number;
  /** How long whoever asks waits for the key to be known. */
  readonly waitMs?: number;
  /** Milliseconds since 1970. */
  readonly now?: () => number;
}

export interface MeshSigner {
  /**
   * Says to the request's owner whom this service asks for. Each token that is verified here has a principal of its own: by
   * that one what was signed is known again. Throws DEPENDENCY_UNAVAILABLE while the key is not known to those who verify.
   */
  mint(caller: Caller, asked: Asked): Promise<string>;
  /** An owner did not take a token: the key is told anew, and no token is used again. Resolves when that is done or failed. */
  refused(): Promise<void>;
  /** Not ok while the key is not known: whoever asks for a caller then is refused. */
  health(): { readonly ok: boolean; readonly reason?: string };
  close(): Promise<void>;
}

/** Signs by Ed25519 with a key that never leaves this process. */
export class MeshTokens {
  readonly #service: Service;
  readonly #privateKey: KeyObject;
  readonly #now: () => number;
  readonly #header: string;
  readonly key: { readonly x: string; readonly proof: string };
  readonly kid: string;
  /** By caller and request. Callers are values that are kept elsewhere, and go with them. */
  #kept = new WeakMap<Principal, Map<string, { token: string; untilMs: number }>>();

  constructor(service: Service, now: () => number) {
    const { publicKey, privateKey } = generateKeyPairSync("ed25519");
    const { x = "" } = publicKey.export({ format: "jwk" });
    this.#service = service;
    this.#privateKey = privateKey;
    this.#now = now;
    this.kid = thumbprintOf(x);
    this.#header = encoded({ alg: meshTokenAlgorithm, kid: this.kid, typ: meshTokenType });
    const proof = sign(null, Buffer.from(meshKeyProofText(service)), privateKey).toString("base64url");
    this.key = { x, proof };
  }

  /** The same again for half its life at most, and only while it outlives the request. */
  mint(caller: Caller, asked: Asked): string {
    const { principal } = caller;
    const nowMs = this.#now();
    const byRequest = this.#kept.get(principal) ?? new Map<string, { token: string; untilMs: number }>();
    const known = byRequest.get(asked.name);
    // A clock that was set back makes nothing last longer.
    if (known !== undefined && nowMs < known.untilMs && known.untilMs - nowMs <= reusableMs(asked)) {
      return known.token;
    }
    const token = this.#sign(caller, asked, nowMs);
    byRequest.set(asked.name, { token, untilMs: nowMs + reusableMs(asked) });
    this.#kept.set(principal, byRequest);
    return token;
  }

  forget(): void {
    this.#kept = new WeakMap();
  }

  #sign({ principal, origin }: Caller, asked: Asked, nowMs: number): string {
    const now = Math.floor(nowMs / 1_000);
    const { asOfMs, via } = origin();
    const claims = encoded({
      iss: meshTokenIssuer(this.#service),
      aud: meshTokenAudience(asked.owner),
      req: asked.name,
      sub: principal.subject,
      tenant_id: principal.tenant_id,
      roles: principal.roles,
      permissions: principal.permissions,
      as_of: asOfMs,
      via,
      iat: now,
      nbf: now,
      exp: now + Math.floor((asked.timeoutMs + meshTokenMarginMs) / 1_000),
      jti: uuidv7(),
    });
    const text = `${this.#header}.${claims}`;
    return `${text}.${sign(null, Buffer.from(text), this.#privateKey).toString("base64url")}`;
  }
}

const encoded = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString("base64url");

/** Room for clocks that differ and for a request that waits to be sent. */
const sparedMs = 10_000;
const reusableMs = ({ timeoutMs }: Asked): number =>
  Math.min((timeoutMs + meshTokenMarginMs) / 2, meshTokenMarginMs - sparedMs);

/** RFC 7638, of a public key on Ed25519. */
export function thumbprintOf(x: string): string {
  const members = JSON.stringify({ crv: "Ed25519", kty: "OKP", x });
  return createHash("sha256").update(members).digest("base64url");
}

/** Makes a key pair for the life of this process, and keeps its public half known to those who verify. */
export function openMeshSigner(o: MeshSignerOptions): MeshSigner {
  const now = o.now ?? Date.now;
  const tokens = new MeshTokens(o.service, now);
  const known = o.metrics.gauge({
    name: "muster_mesh_key_known",
    help: "1 while the key by which this process vouches for callers is known to those who verify.",
  });
  known.set({}, 0);
  const keeping = new Keeping(o, tokens.key, known);
  keeping.start();
  return {
    async mint(caller, asked) {
      if (!keeping.isKnown) await keeping.known(o.waitMs ?? 3_000);
      return tokens.mint(caller, asked);
    },
    async refused() {
      tokens.forget();
      await keeping.renewSoon().catch(() => undefined);
    },
    health() {
      return keeping.isKnown
        ? { ok: true }
        : { ok: false, reason: "auth does not know this process's key yet" };
    },
    close: () => keeping.close(),
  };
}

/** Whether the key is known, by the monotonic clock: for how long is told in seconds from the asking on. */
class Keeping {
  readonly #o: MeshSignerOptions;
  readonly #key: { readonly x: string; readonly proof: string };
  readonly #gauge: Gauge;
  readonly #retryMs: number;
  #knownUntilMs = -Infinity;
  #askedAtMs = -Infinity;
  #flight: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #running: Promise<void> = Promise.resolve();
  #failing = false;
  #closed = false;

  constructor(o: MeshSignerOptions, key: { readonly x: string; readonly proof: string }, gauge: Gauge) {
    this.#o = o;
    this.#key = key;
    this.#gauge = gauge;
    this.#retryMs = o.retryMs ?? 1_000;
  }

  get isKnown(): boolean {
    return performance.now() < this.#knownUntilMs;
  }

  /** From now on; the first time at once. */
  start(): void {
    this.#running = this.#keep();
  }

  async #tell(): Promise<void> {
    const askedAtMs = performance.now();
    this.#askedAtMs = askedAtMs;
    const { expires_in_seconds: seconds } = await this.#o.register(this.#key);
    this.#knownUntilMs = askedAtMs + seconds * 1_000;
    this.#gauge.set({}, 1);
  }

  #renew(): Promise<void> {
    this.#flight ??= this.#tell().finally(() => (this.#flight = undefined));
    return this.#flight;
  }

  async #keep(): Promise<void> {
    let nextMs = this.#o.renewMs ?? 30 * 60_000;
    try {
      await this.#renew();
      this.#failing = false;
    } catch (error) {
      const level = this.#failing ? "debug" : "warn";
      this.#o.logger[level](
        { err: error },
        "the key that vouches for callers could not be told; tried again",
      );
      this.#failing = true;
      if (!this.isKnown) this.#gauge.set({}, 0);
      nextMs = this.#retryMs;
    }
    if (this.#closed) return;
    this.#timer = setTimeout(() => this.start(), nextMs);
    this.#timer.unref();
  }

  /** However many ask for it at once. */
  async renewSoon(): Promise<void> {
    if (performance.now() - this.#askedAtMs >= this.#retryMs) await this.#renew();
  }

  /** Throws DEPENDENCY_UNAVAILABLE when it is not known in time. */
  async known(waitMs: number): Promise<void> {
    const untilMs = performance.now() + waitMs;
    const leftMs = () => Math.max(0, untilMs - performance.now());
    let cause: unknown;
    while (!this.isKnown && !this.#closed && leftMs() > 0) {
      const renewed = this.#renew().catch((error: unknown) => {
        cause = error;
      });
      await Promise.race([renewed, pauseMs(leftMs())]);
      if (!this.isKnown) await pauseMs(Math.min(100, leftMs()));
    }
    if (!this.isKnown)
      throw new MusterError("DEPENDENCY_UNAVAILABLE", undefined, { retryAfterMs: 1_000, cause });
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    await this.#running;
  }
}

function pauseMs(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, Math.max(0, ms)).unref();
  });
}
