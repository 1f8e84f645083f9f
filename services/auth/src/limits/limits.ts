import type { RequestContract } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import type { LimitName } from "@muster/contracts/limits";
import type { Tx } from "@muster/database/database";
import type { Counter, Metrics } from "@muster/telemetry/metrics";
import { recordAudit } from "../audit/store.ts";
import type { Bounds } from "./bounds.ts";
import { networkOf } from "./network.ts";
import { takeFrom } from "./store.ts";
import type { Look, Seen } from "./store.ts";

/** Whose audit events tell of it. */
export interface Concerned {
  readonly tenantId: string;
  /** `api-key:<id>` */
  readonly subject: string;
}

export interface Credential {
  /** What names it, and is no secret: `key:<prefix>`, `client:<id>`. */
  readonly name: string;
  /** Undefined where nobody has such a credential. */
  readonly concerns: Concerned | undefined;
}

/** What became of one who presented a credential, before he is told. */
export type Outcome = { readonly address: string | undefined } & (
  | { readonly failed: true; readonly credentials: readonly Credential[] }
  | { readonly failed: false; readonly who: Concerned }
);

type Declared = Pick<RequestContract, "name" | "limits">;

/** Counts what a request declares, for all replicas together, by the database's clock. */
export class Limits {
  readonly #bounds: Bounds;
  readonly #limited: Counter;

  constructor(o: { bounds: Bounds; metrics: Metrics }) {
    this.#bounds = o.bounds;
    this.#limited = o.metrics.counter({
      name: "muster_auth_rate_limited_total",
      help: "Requests refused by a limit.",
      labels: ["limit"],
    });
  }

  /**
   * RATE_LIMITED for each that is beyond a limit that the contract declares. Take it before a refusal is answered and before
   * a token is given, in the transaction that looked at the credential, and let that commit: it holds what was counted.
   * A credential that works is turned away by its address's failures and by its own holder's and tenant's tokens, and by
   * nothing that a stranger can do elsewhere.
   */
  async count(
    tx: Tx,
    contract: Declared,
    outcomes: readonly Outcome[],
  ): Promise<(MusterError | undefined)[]> {
    const plans = outcomes.map((outcome) => groupsOf(outcome, contract.limits));
    const seen = await takeFrom(tx, plans.flat(), this.#bounds);
    await this.#tell(tx, outcomes, seen);
    const refusals = refusalsOf(plans.flat().length, seen);
    let at = 0;
    return plans.map((groups) => {
      const own = refusals.slice(at, (at += groups.length)).find((refusal) => refusal !== undefined);
      return own === undefined ? undefined : this.#refuse(own);
    });
  }

  #refuse({ limit, waitSeconds }: Seen): MusterError {
    this.#limited.inc({ limit });
    const { max, windowSeconds } = this.#bounds[limit];
    const details = [{ path: "limit", message: `${limit}: ${max} in ${windowSeconds} s` }];
    return new MusterError("RATE_LIMITED", undefined, {
      details,
      retryAfterMs: Math.max(1_000, Math.ceil(waitSeconds * 1_000)),
    });
  }

  /** Once a window for each that is full. A name that nobody has concerns nobody. */
  async #tell(tx: Tx, outcomes: readonly Outcome[], seen: readonly Seen[]): Promise<void> {
    const filled = new Map(
      seen.filter((one) => one.filled).map((one) => [`${one.limit} ${one.key}`, one] as const),
    );
    for (const { limit, key } of filled.values()) {
      const concerns =
        limit === "failures-by-address"
          ? { tenantId: null, subject: `address:${key}` }
          : concernedBy(outcomes, limit, key);
      if (concerns === undefined) continue;
      const { max, windowSeconds } = this.#bounds[limit];
      const details = { limit, max: String(max), window_seconds: String(windowSeconds) };
      await recordAudit(tx, { ...concerns, actor: "auth", action: "limit.reached", details });
    }
  }
}

/** What is looked at and taken; a failure by an address that is turned away counts for nothing else. */
function groupsOf(outcome: Outcome, declared: readonly LimitName[]): Look[][] {
  const from = outcome.address === undefined ? [] : [networkOf(outcome.address)];
  const fail = (takes: boolean): Look[] => from.map((key) => ({ limit: "failures-by-address", key, takes }));
  const asked: Look[][] = outcome.failed
    ? [
        fail(true),
        ...outcome.credentials.map(({ name: key }): Look[] => [
          { limit: "failures-by-credential", key, takes: true },
          ...fail(false),
        ]),
      ]
    : [
        [
          {
            limit: "tokens-by-principal",
            key: `${outcome.who.tenantId}/${outcome.who.subject}`,
            takes: true,
          },
          { limit: "tokens-by-tenant", key: outcome.who.tenantId, takes: true },
          { limit: "agent-tokens-by-tenant", key: outcome.who.tenantId, takes: true },
          ...fail(false),
        ],
      ];
  return asked.map((looks) => looks.filter(({ limit }) => declared.includes(limit)));
}

/** For each group what turns it away: what was full before, or what others of this batch took the rest of. */
function refusalsOf(groups: number, seen: readonly Seen[]): (Seen | undefined)[] {
  const byGroup = new Map<number, Seen[]>();
  for (const one of seen) byGroup.set(one.group, [...(byGroup.get(one.group) ?? []), one]);
  const taken = new Map<string, number>();
  return Array.from({ length: groups }, (_, group) => {
    const looks = byGroup.get(group) ?? [];
    const full = looks.find(({ room }) => room < 1);
    if (full !== undefined) return full;
    let short: Seen | undefined;
    for (const one of looks) {
      if (!one.takes) continue;
      const bucket = `${one.limit} ${one.key}`;
      const before = taken.get(bucket) ?? 0;
      taken.set(bucket, before + 1);
      if (before >= (one.given ?? 0)) short ??= one;
    }
    return short;
  });
}

function concernedBy(outcomes: readonly Outcome[], limit: LimitName, key: string): Concerned | undefined {
  for (const outcome of outcomes) {
    if (outcome.failed) {
      const known = outcome.credentials.find(({ name }) => name === key)?.concerns;
      if (limit === "failures-by-credential" && known !== undefined) return known;
      continue;
    }
    const { tenantId, subject } = outcome.who;
    const ofTenant = limit === "tokens-by-tenant" || limit === "agent-tokens-by-tenant";
    if (ofTenant && key === tenantId) return { tenantId, subject: `tenant:${tenantId}` };
    if (limit === "tokens-by-principal" && key === `${tenantId}/${subject}`) return outcome.who;
  }
  return undefined;
}
