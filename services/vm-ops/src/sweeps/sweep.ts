import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import type { vmOpsRequests } from "@muster/contracts/vm-ops";
import type { Database } from "@muster/database/database";
import { transitionOf, writeTransitions } from "../commands/store.ts";
import type { LockedCommand, Written } from "../commands/store.ts";
import type { VmOpsMetrics } from "../metrics.ts";
import type { Hints } from "../output/hints.ts";
import { ageOf } from "./age.ts";
import { amnestyMs } from "./liveness.ts";
import { rules, selectStale } from "./rules.ts";
import type { SweepRule, Thresholds } from "./rules.ts";

type Contract = typeof vmOpsRequests.sweepCommands;
type Report = ReplyInputOf<Contract>;
type RuleReport = Report["rules"][number];

export interface SweepParts {
  readonly database: Pick<Database, "transaction">;
  readonly metrics: VmOpsMetrics;
  readonly hints: Hints;
  readonly forceMs: number;
}

/** Commands that one transaction changes. */
const batchMax = 500;
const namedMax = 20;

/** Runs the rules, each in bounded batches. Any number of sweeps may run at once: nothing is swept twice. */
export async function sweepCommands(parts: SweepParts, request: PayloadOf<Contract>): Promise<Report> {
  const thresholds: Thresholds = {
    runningMaxMs: ageOf(request.running_max_ms),
    dispatchedMaxMs: ageOf(request.dispatched_max_ms),
    requeuesMax: request.dispatch_max_requeues,
    forceMs: parts.forceMs,
  };
  const reports: RuleReport[] = [];
  for (const rule of request.rules) {
    reports.push(await sweepRule(parts, rule, thresholds, request.limit, request.dry_run));
  }
  const amnesty = await parts.database.transaction("system", (tx) => amnestyMs(tx), { readOnly: true });
  return {
    dry_run: request.dry_run,
    rules: reports,
    more: reports.some((report) => report.matched >= request.limit),
    amnesty_ms: amnesty,
  };
}

async function sweepRule(
  parts: SweepParts,
  rule: SweepRule,
  thresholds: Thresholds,
  limit: number,
  dryRun: boolean,
): Promise<RuleReport> {
  const report = { rule, matched: 0, changed: 0, expired: 0, requeued: 0, dead_lettered: 0 };
  const ids: string[] = [];
  for (const selection of rules[rule].selections(thresholds)) {
    for (let left = limit - report.matched; left > 0; left = limit - report.matched) {
      const size = dryRun ? left : Math.min(left, batchMax);
      const { rows, written } = await parts.database.transaction(
        "system",
        async (tx) => {
          const stale = await selectStale(tx, selection, size, !dryRun);
          const decided = decideAll(rule, stale, thresholds);
          if (!dryRun) await writeTransitions(tx, decided);
          return { rows: stale, written: decided };
        },
        dryRun ? { readOnly: true } : {},
      );
      report.matched += rows.length;
      ids.push(...rows.slice(0, namedMax - ids.length).map((row) => row.id));
      count(report, written, dryRun);
      if (!dryRun) observe(parts, rule, written);
      if (dryRun || rows.length < size || written.length === 0) break;
    }
  }
  return { ...report, command_ids: ids };
}

function decideAll(rule: SweepRule, rows: readonly LockedCommand[], thresholds: Thresholds): Written[] {
  return rows.flatMap((row): Written[] => {
    const happening = rules[rule].happening(row, thresholds);
    if (happening === undefined) return [];
    const life = transitionOf(row, happening);
    // The history names the event of the table; which sweep saw it is a detail.
    return life === undefined
      ? []
      : [{ row, life, actor: "sweep", rule: happening.event, details: { sweep: rule, ...thresholds } }];
  });
}

/** In a dry run it counts what would happen, except that nothing is changed. */
function count(
  report: { changed: number; expired: number; requeued: number; dead_lettered: number },
  written: readonly Written[],
  dryRun: boolean,
): void {
  if (!dryRun) report.changed += written.length;
  for (const { life } of written) {
    if (life.state === "expired") report.expired += 1;
    if (life.state === "queued") report.requeued += 1;
    if (life.state === "dead_lettered") report.dead_lettered += 1;
  }
}

function observe({ metrics, hints }: SweepParts, rule: SweepRule, written: readonly Written[]): void {
  for (const { row, life } of written) {
    metrics.sweeps.inc({ rule, outcome: life.state === "running" ? "told_to_stop" : life.state });
    metrics.transitions.inc({ from: row.state, to: life.state, reason: life.reason });
    if (rule === "unclaimed") metrics.requeueVerdicts.inc({ hand: "sweep", verdict: verdictOf(life.state) });
    hints.changed(row.id);
  }
}

const verdictOf = (state: string): string => (state === "queued" ? "requeue" : "dead_letter");
