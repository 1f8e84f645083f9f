import type { TokenRevocation } from "@muster/contracts/token-revocations";
import type { Metrics } from "@muster/telemetry/metrics";
import type { Verified } from "./claims.ts";
import { KeysUnavailable } from "./keys.ts";

/** One page of the issuer's list; null after the last one. */
export interface RevocationsPage {
  readonly items: readonly TokenRevocation[];
  readonly next_cursor: string | null;
}

export interface RevocationsOptions {
  readonly fetchPage: (page: { limit: number; cursor?: string }) => Promise<RevocationsPage>;
  /** Age at which the list is read again. */
  readonly maxAgeMs: number;
  /** How old the list may be while it cannot be read, though events may have been missed. */
  readonly staleMaxMs: number;
  /** Subjects that are remembered one by one; beyond, all of the tenant that has most of them are one entry. */
  readonly subjectsMax: number;
  readonly now: () => number;
  readonly onFailed: (error: unknown) => void;
  readonly metrics: Metrics;
}

interface Entry {
  notBeforeMs: number;
  untilMs: number;
}

interface Tenant {
  /** Of everybody in the tenant. */
  all: Entry | undefined;
  readonly subjects: Map<string, Entry>;
}

const pageItems = 200;
/** More pages than a list can have: one that does not end is a fault of whoever gives it. */
const pagesMax = 10_000;
/** A list that could not be read is not asked for again within this. */
const retryMs = 500;
const pruneEveryMs = 60_000;

/**
 * Which tokens are void though they live: from the issuer's list, read once at least, and from its events. Nothing is taken
 * back before its time, so that list and events may come in any order.
 */
export class Revocations {
  readonly #o: RevocationsOptions;
  readonly #tenants = new Map<string, Tenant>();
  readonly #gauge: { set(value: number): void };
  #subjects = 0;
  #prunedAtMs = 0;
  #readAtMs = -Infinity;
  #triedAtMs = -Infinity;
  #flight: Promise<void> | undefined;
  /** Something may have been missed, and is asked for. */
  #behind: Promise<void> | undefined;
  #missed = false;

  constructor(o: RevocationsOptions) {
    this.#o = o;
    this.#gauge = o.metrics.gauge({
      name: "muster_auth_revocations",
      help: "Revocations that are remembered: tokens of a subject or a tenant that are void though they live.",
    });
    this.#gauge.set(0);
  }

  get size(): number {
    let all = 0;
    for (const tenant of this.#tenants.values()) if (tenant.all !== undefined) all += 1;
    return this.#subjects + all;
  }

  /** Whether this token was made before something of it was revoked. A few look-ups, however many are remembered. */
  voids({ principal, origin }: Pick<Verified, "principal" | "origin">): boolean {
    const tenant = this.#tenants.get(principal.tenant_id);
    if (tenant === undefined) return false;
    const nowMs = this.#o.now();
    const isVoid = (entry: Entry | undefined) =>
      entry !== undefined && origin.asOfMs < entry.notBeforeMs && nowMs < entry.untilMs;
    return (
      isVoid(tenant.all) ||
      isVoid(tenant.subjects.get(principal.subject)) ||
      origin.via.some((what) => isVoid(tenant.subjects.get(what)))
    );
  }

  add(revocations: readonly TokenRevocation[]): void {
    const nowMs = this.#o.now();
    for (const one of revocations) {
      const entry = { notBeforeMs: Date.parse(one.not_before), untilMs: Date.parse(one.until) };
      if (entry.untilMs > nowMs) this.#remember(one.tenant_id, one.subject, entry);
    }
    if (this.#subjects > this.#o.subjectsMax || nowMs - this.#prunedAtMs >= pruneEveryMs) this.#prune(nowMs);
    while (this.#subjects > this.#o.subjectsMax) this.#foldLargest();
    this.#gauge.set(this.size);
  }

  /**
   * What has to be waited for before a token is judged; undefined where nothing is. Rejects with KeysUnavailable while
   * nothing is known that could be relied on.
   */
  wait(): Promise<void> | undefined {
    const ageMs = this.#o.now() - this.#readAtMs;
    const isDue = this.#o.now() - this.#triedAtMs >= retryMs;
    if (ageMs >= this.#o.staleMaxMs) {
      if (this.#flight === undefined && !isDue) {
        return Promise.reject(new KeysUnavailable("the revocations could not be read a moment ago"));
      }
      return this.#read().catch((cause: unknown) => {
        throw new KeysUnavailable("the revocations cannot be read", { cause });
      });
    }
    if (this.#behind !== undefined) return this.#behind;
    if (ageMs >= this.#o.maxAgeMs && this.#flight === undefined && isDue) this.#read().catch(() => undefined);
    return undefined;
  }

  /** Events may have been missed: whoever is to be judged waits for the next `reload`, once. */
  missed(): void {
    this.#missed = true;
  }

  /** Reads what is there from now on: what is under way may have been read before. */
  async reload(): Promise<void> {
    const anew = async (): Promise<void> => {
      await this.#flight?.catch(() => undefined);
      await this.#read();
    };
    const reading = anew();
    if (this.#missed) {
      this.#missed = false;
      // Where it fails, what is known serves on, as keys do, and it is tried again.
      const behind: Promise<void> = reading
        .catch(() => undefined)
        .finally(() => {
          if (this.#behind === behind) this.#behind = undefined;
        });
      this.#behind = behind;
    }
    await reading;
  }

  #read(): Promise<void> {
    this.#flight ??= this.#readOnce().finally(() => (this.#flight = undefined));
    return this.#flight;
  }

  async #readOnce(): Promise<void> {
    const startedAtMs = this.#o.now();
    this.#triedAtMs = startedAtMs;
    try {
      let cursor: string | null = null;
      for (let pages = 0; pages === 0 || cursor !== null; pages++) {
        if (pages === pagesMax) throw new Error("the list of revocations does not end");
        const page: RevocationsPage = await this.#o.fetchPage({
          limit: pageItems,
          ...(cursor === null ? {} : { cursor }),
        });
        this.add(page.items);
        cursor = page.next_cursor;
      }
      this.#readAtMs = startedAtMs;
    } catch (error) {
      this.#o.onFailed(error);
      throw error;
    }
  }

  #remember(tenantId: string, subject: string | null, entry: Entry): void {
    let tenant = this.#tenants.get(tenantId);
    if (tenant === undefined) this.#tenants.set(tenantId, (tenant = { all: undefined, subjects: new Map() }));
    if (subject === null) {
      tenant.all = latest(tenant.all, entry);
      return;
    }
    const known = tenant.subjects.get(subject);
    if (known === undefined) this.#subjects += 1;
    tenant.subjects.set(subject, latest(known, entry));
  }

  #prune(nowMs: number): void {
    this.#prunedAtMs = nowMs;
    for (const [tenantId, tenant] of this.#tenants) {
      for (const [subject, { untilMs }] of tenant.subjects) {
        if (untilMs <= nowMs && tenant.subjects.delete(subject)) this.#subjects -= 1;
      }
      if (tenant.all !== undefined && tenant.all.untilMs <= nowMs) tenant.all = undefined;
      if (tenant.all === undefined && tenant.subjects.size === 0) this.#tenants.delete(tenantId);
    }
  }

  /** Voids too much rather than too little: who is good exchanges again, for a token that is made after all of them. */
  #foldLargest(): void {
    let largest: Tenant | undefined;
    for (const tenant of this.#tenants.values()) {
      if (tenant.subjects.size > (largest?.subjects.size ?? 0)) largest = tenant;
    }
    if (largest === undefined) return;
    for (const entry of largest.subjects.values()) largest.all = latest(largest.all, entry);
    this.#subjects -= largest.subjects.size;
    largest.subjects.clear();
  }
}

function latest(known: Entry | undefined, entry: Entry): Entry {
  if (known === undefined) return entry;
  return {
    notBeforeMs: Math.max(known.notBeforeMs, entry.notBeforeMs),
    untilMs: Math.max(known.untilMs, entry.untilMs),
  };
}
