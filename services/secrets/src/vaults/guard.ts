import { MusterError } from "@muster/contracts/errors";
import type { Material, VaultKind } from "@muster/contracts/secrets";
import { once } from "@muster/service/closing";
import type { Health } from "@muster/service/closing";
import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import CircuitBreaker from "opossum";
import { Bulkhead } from "./bulkhead.ts";
import { CallLimit } from "./call-limit.ts";
import { guardInstruments } from "./guard-instruments.ts";
import type { GuardInstruments } from "./guard-instruments.ts";
import { GuardClosed, outcomeOf, refusalOf, sparesBreaker } from "./outcome.ts";
import type { Place, Vault } from "./vault.ts";

export interface GuardLimits {
  /** Of one call, with its wait for a place. */
  readonly timeoutMs: number;
  readonly concurrencyMax: number;
  readonly waitingMax: number;
  readonly breaker: {
    /** When more of the calls than this fail, of `callsMin` at least in `windowMs`, no more are made until a probe. */
    readonly failuresPercent: number;
    readonly callsMin: number;
    readonly windowMs: number;
    readonly probeMs: number;
  };
}

/** Throws MusterError, never VaultError. */
export interface GuardedVault extends Vault {
  /** Asks the vault itself, unless it is left alone. */
  health(): Promise<Health>;
}

/** What /readyz waits for one answer is 2 s. */
const healthTimeoutMs = 1_500;
const never = new AbortController().signal;

type Work = (signal: AbortSignal) => Promise<unknown>;
/** What the breaker takes for a call that went well: among them refusals that are no sign of weakness. */
type Made = { readonly answer: unknown } | { readonly refusal: unknown };
type Operation = "check" | "write" | "read" | "destroy";

/**
 * Stands in front of any vault: one that hangs, dies or talks nonsense costs its callers a bounded time, then none. Nothing is cached.
 * The breaker is opossum's. Its timeout and its capacity are not used: its timer leaves the call running, gives the place
 * away, and its capacity counts a full house as the vault's failure. A place is free again when the call has really ended.
 */
export function guardVault(
  vault: Vault,
  o: { limits: GuardLimits; logger: Logger; metrics: Metrics },
): GuardedVault {
  return new Guard(vault, o);
}

class Guard implements GuardedVault {
  readonly kind: VaultKind;
  readonly #vault: Vault;
  readonly #limits: GuardLimits;
  readonly #logger: Logger;
  readonly #instruments: GuardInstruments;
  readonly #bulkhead: Bulkhead;
  readonly #breaker: CircuitBreaker<[CallLimit, () => Promise<unknown>], Made>;
  readonly #running = new Set<Promise<unknown>>();
  #looking: Promise<Health> | undefined;
  #probeAtMs = 0;
  #inFlight = 0;
  #closed = false;

  constructor(vault: Vault, o: { limits: GuardLimits; logger: Logger; metrics: Metrics }) {
    const { limits } = o;
    this.kind = vault.kind;
    this.#vault = vault;
    this.#limits = limits;
    this.#logger = o.logger;
    this.#bulkhead = new Bulkhead({ placesMax: limits.concurrencyMax, waitingMax: limits.waitingMax });
    this.#instruments = guardInstruments(o.metrics);
    this.#breaker = new CircuitBreaker(
      (limit: CallLimit, work: () => Promise<unknown>) => this.#make(limit, work),
      {
        timeout: false,
        errorThresholdPercentage: limits.breaker.failuresPercent,
        volumeThreshold: limits.breaker.callsMin,
        rollingCountTimeout: limits.breaker.windowMs,
        resetTimeout: limits.breaker.probeMs,
        rollingPercentilesEnabled: false,
        enableSnapshots: false,
      },
    );
    this.#watchBreaker();
  }

  #watchBreaker(): void {
    const vault = this.kind;
    this.#instruments.breaker("closed");
    this.#breaker.on("open", () => {
      this.#probeAtMs = performance.now() + this.#limits.breaker.probeMs;
      this.#instruments.breaker("open");
      this.#logger.warn(
        { event: "vault_breaker", state: "open", vault },
        "the vault fails and is left alone",
      );
    });
    this.#breaker.on("halfOpen", () => this.#instruments.breaker("half_open"));
    this.#breaker.on("close", () => {
      this.#instruments.breaker("closed");
      this.#logger.info({ event: "vault_breaker", state: "closed", vault }, "the vault answers again");
    });
  }

  async check(signal: AbortSignal): Promise<void> {
    await this.#call("check", signal, this.#limits.timeoutMs, (ends) => this.#vault.check(ends));
  }

  async write(place: Place, material: Material, signal: AbortSignal): Promise<void> {
    await this.#call("write", signal, this.#limits.timeoutMs, (ends) =>
      this.#vault.write(place, material, ends),
    );
  }

  async read(place: Place, signal: AbortSignal): Promise<Material> {
    const read = (ends: AbortSignal) => this.#vault.read(place, ends);
    return (await this.#call("read", signal, this.#limits.timeoutMs, read)) as Material;
  }

  async destroy(place: Place, signal: AbortSignal): Promise<void> {
    await this.#call("destroy", signal, this.#limits.timeoutMs, (ends) => this.#vault.destroy(place, ends));
  }

  /** One look for all who ask at once. It is a call like others: it opens the breaker, and is its probe. */
  health(): Promise<Health> {
    this.#looking ??= this.#look().finally(() => {
      this.#looking = undefined;
    });
    return this.#looking;
  }

  async #look(): Promise<Health> {
    const detail = { vault: this.kind };
    if (this.#breaker.opened) {
      return { ok: false, reason: `left alone for ${this.#untilProbeMs()} ms, for it failed`, detail };
    }
    const timeoutMs = Math.min(this.#limits.timeoutMs, healthTimeoutMs);
    try {
      await this.#call("check", never, timeoutMs, (ends) => this.#vault.check(ends));
      return { ok: true, detail };
    } catch (error) {
      const cause = error instanceof MusterError && error.cause instanceof Error ? error.cause : error;
      return { ok: false, reason: cause instanceof Error ? cause.message : "it cannot be asked", detail };
    }
  }

  async #call(operation: Operation, caller: AbortSignal, timeoutMs: number, work: Work): Promise<unknown> {
    const started = performance.now();
    const limit = new CallLimit(caller, timeoutMs);
    const call = this.#guarded(operation, limit, work);
    this.#running.add(call);
    try {
      const answer = await call;
      this.#instruments.count(operation, "ok");
      return answer;
    } catch (error) {
      const outcome = outcomeOf(error, limit.ended);
      this.#instruments.count(operation, outcome);
      throw refusalOf(error, outcome, { probeInMs: this.#untilProbeMs(), timeoutMs: this.#limits.timeoutMs });
    } finally {
      limit.release();
      this.#running.delete(call);
      this.#instruments.observe(operation, (performance.now() - started) / 1_000);
    }
  }

  async #make(limit: CallLimit, work: () => Promise<unknown>): Promise<Made> {
    try {
      return { answer: await work() };
    } catch (error) {
      // A probe that its caller gave up has shown nothing: the next one comes later.
      if (sparesBreaker(error, limit.ended, { probing: this.#breaker.halfOpen })) return { refusal: error };
      throw error;
    }
  }

  async #guarded(operation: Operation, limit: CallLimit, work: Work): Promise<unknown> {
    if (this.#closed) throw new GuardClosed("it is closed");
    // A look at a vault whose places are all taken must not take longer for it: there is one at a time.
    const leave = operation === "check" ? () => undefined : await this.#bulkhead.enter(limit.signal);
    let freed = leave;
    try {
      const made = await this.#breaker.fire(limit, () => {
        const real = Promise.resolve().then(() => work(limit.signal));
        freed = () => undefined;
        this.#fly(1);
        const ended = () => {
          this.#fly(-1);
          leave();
        };
        real.then(ended, ended);
        return limit.within(real);
      });
      if ("refusal" in made) throw made.refusal;
      return made.answer;
    } finally {
      freed();
    }
  }

  #fly(calls: 1 | -1): void {
    this.#inFlight += calls;
    this.#instruments.inFlight(this.#inFlight);
  }

  #untilProbeMs(): number {
    return this.#breaker.opened ? Math.max(1, Math.ceil(this.#probeAtMs - performance.now())) : 0;
  }

  /** Calls that run have their time; new ones are refused. */
  readonly close = once(async () => {
    this.#closed = true;
    await Promise.allSettled(this.#running);
    this.#breaker.shutdown();
    await this.#vault.close();
  });
}
