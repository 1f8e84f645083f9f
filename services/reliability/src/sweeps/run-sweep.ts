import type { Broker, RequestContext } from "@muster/broker/broker";
import type { PayloadOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import type { reliabilityRequests } from "@muster/contracts/reliability";
import { sweepRules, vmOpsRequests } from "@muster/contracts/vm-ops";
import type { Database } from "@muster/database/database";
import { callerWithRole } from "../access.ts";
import { addSweepAudit } from "./store.ts";
import type { AskToSweep, SweepReport } from "./sweep.ts";

interface Parts {
  readonly database: Database;
  readonly broker: Pick<Broker, "request">;
  readonly sweep: AskToSweep;
}

/** What is kept of the asker's patience for the audit and for looking up whose the commands are. */
const reserveMs = 10_000;

/** A sweep on demand, by an admin; written down before it runs and after. */
export function runningSweep(parts: Parts) {
  return async (
    payload: PayloadOf<typeof reliabilityRequests.runSweep>,
    context: RequestContext,
  ): Promise<SweepReport> => {
    const caller = callerWithRole(context, "admin");
    const runId = uuidv7();
    const asked = {
      rules: payload.rules ?? [...sweepRules],
      limit: payload.limit,
      dry_run: payload.dry_run,
    };
    await addSweepAudit(parts.database, caller, { runId, action: "requested", details: asked });
    try {
      const timeoutMs = Math.max(1_000, context.remainingMs - reserveMs);
      const report = await parts.sweep(asked, context, { timeoutMs });
      await addSweepAudit(parts.database, caller, { runId, action: "answered", details: { ...report } });
      return await onlyOwnIds(parts, report, context);
    } catch (error) {
      const details = { code: error instanceof MusterError ? error.code : "INTERNAL" };
      await addSweepAudit(parts.database, caller, { runId, action: "failed", details }).catch(
        () => undefined,
      );
      throw error;
    }
  };
}

/** A sweep goes over all tenants: the counts are everyone's, the ids only those that the caller may read. */
async function onlyOwnIds(parts: Parts, report: SweepReport, context: RequestContext): Promise<SweepReport> {
  const readable = async (command_id: string): Promise<boolean> => {
    const answer = parts.broker.request(vmOpsRequests.getCommand, { command_id }, context, {
      timeoutMs: reserveMs / 2,
    });
    return answer.then(
      () => true,
      () => false,
    );
  };
  const rules = await Promise.all(
    report.rules.map(async (rule) => {
      const own = await Promise.all(rule.command_ids.map(readable));
      return { ...rule, command_ids: rule.command_ids.filter((_, at) => own[at]) };
    }),
  );
  return { ...report, rules };
}
