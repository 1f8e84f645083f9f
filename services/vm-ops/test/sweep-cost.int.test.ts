import { sweepRules } from "@muster/contracts/vm-ops";
import type { Tx } from "@muster/database/database";
import { expect } from "chai";
import { z } from "zod";
import { rules, type Thresholds } from "../src/sweeps/rules.ts";
import { setup, type Setup } from "./setup.ts";

const thresholds: Thresholds = {
  ...{ runningMaxMs: 900_000, dispatchedMaxMs: 60_000, requeuesMax: 2, forceMs: 150_000 },
};
const agent = "00000000-0000-7000-9000-000000000001";
const vmsOnline = 4;
const concurrency = 2;

/** A node of a plan as the server explains it after it ran. */
interface PlanNode {
  readonly "Node Type": string;
  readonly "Relation Name"?: string | undefined;
  readonly Alias?: string | undefined;
  readonly "Actual Rows": number;
  readonly "Actual Loops": number;
  readonly "Rows Removed by Filter"?: number | undefined;
  readonly Plans?: readonly PlanNode[] | undefined;
}

const planNode: z.ZodType<PlanNode> = z.lazy(() =>
  z.object({
    "Node Type": z.string(),
    "Relation Name": z.string().optional(),
    Alias: z.string().optional(),
    "Actual Rows": z.number(),
    "Actual Loops": z.number(),
    "Rows Removed by Filter": z.number().optional(),
    Plans: z.array(planNode).optional(),
  }),
);
const explained = z.array(z.object({ "QUERY PLAN": z.array(z.object({ Plan: planNode })) })).length(1);

const nodesOf = (node: PlanNode): PlanNode[] => [node, ...(node.Plans ?? []).flatMap(nodesOf)];

/** How many rows of the commands' table the rule reads, counting those that it throws away. */
async function rowsRead(tx: Tx, rule: (typeof sweepRules)[number]): Promise<number> {
  let read = 0;
  for (const { text, values } of rules[rule].selections(thresholds)) {
    const locking = `EXPLAIN (ANALYZE, FORMAT JSON) ${text} FOR NO KEY UPDATE OF c SKIP LOCKED`;
    const [answer] = explained.parse(await tx.query(locking, [500, ...values]));
    const [plan] = answer?.["QUERY PLAN"] ?? [];
    for (const node of plan === undefined ? [] : nodesOf(plan.Plan)) {
      if (node["Relation Name"] !== "commands") continue;
      expect(node["Node Type"], `${rule} on ${node.Alias ?? "commands"}`).to.match(/^Index/);
      read += (node["Actual Rows"] + (node["Rows Removed by Filter"] ?? 0)) * node["Actual Loops"];
    }
  }
  return read;
}

/** So many commands of VMs whose agent is online, in each state that is not stale. */
async function fill(s: Setup, o: { ended: number; waiting: number; running: number }): Promise<void> {
  await s.sql(
    `INSERT INTO commands (tenant_id, id, vm_uuid, action, lane, retry_safety, params, payload_sha256, payload_bytes,
       state, reason, timeout_ms, expires_in_ms, requested_by, correlation_id, accepted_at, expires_at, dispatched_at,
       started_at, lease_renewed_at, lease_expires_at, run_until, finished_at, agent_id, claim_nonce)
     SELECT 'acme', gen_random_uuid(), vm.vm_uuid, 'exec', 'work', 'never', '{}', repeat('0', 64), 2, state, 'completed',
       1000, 1000, 'user:test', 'c', now() - interval '2 hours', now() + interval '1 day',
       now(), CASE WHEN claimed THEN now() END, CASE WHEN state = 'running' THEN now() END,
       CASE WHEN state = 'running' THEN now() + interval '1 day' END, CASE WHEN claimed THEN now() + interval '1 day' END,
       CASE WHEN state = 'succeeded' THEN now() - interval '1 hour' END, CASE WHEN claimed THEN $1::uuid END,
       CASE WHEN claimed THEN gen_random_uuid() END
     FROM (SELECT vm_uuid, row_number() OVER () - 1 AS n FROM vms) vm, (
       SELECT 'succeeded' AS state, true AS claimed, g % $5 AS n FROM generate_series(1, $2) g
       UNION ALL SELECT 'dispatched', false, g % $5 FROM generate_series(1, $3) g
       UNION ALL SELECT 'running', true, g % $5 FROM generate_series(1, $4) g) c
     WHERE c.n = vm.n`,
    [agent, o.ended, o.waiting, o.running, vmsOnline],
  );
}

describe("the cost of a sweep", function () {
  this.timeout(60_000);
  let s: Setup;
  before(async () => {
    s = await setup();
    for (let n = 0; n < vmsOnline; n++) await s.vm({ concurrency });
    await s.sql("UPDATE vms SET agent_id = $1", [agent]);
    await s.sql(
      `INSERT INTO agent_sessions (tenant_id, agent_id, generation, session_id, boot_id, journal_id, journal_seq,
         version, drivers, actions) VALUES ('acme', $1, 1, gen_random_uuid(), 'b', gen_random_uuid(), 1, '1', '[]', '{}')`,
      [agent],
    );
  });
  after(() => s.close());

  const readBy = (rule: (typeof sweepRules)[number]): Promise<number> =>
    s.database.transaction("system", (tx) => rowsRead(tx, rule));

  it("does not grow with the commands that have ended, wait in time, or run under their lease", async () => {
    await fill(s, { ended: 400, waiting: 400, running: vmsOnline });
    const among = new Map<string, number>();
    for (const rule of sweepRules) among.set(rule, await readBy(rule));
    await fill(s, { ended: 8_000, waiting: 3_000, running: 0 });
    for (const rule of sweepRules) {
      if (rule === "unclaimed") continue;
      expect(await readBy(rule), rule).to.equal(0);
      expect(among.get(rule), rule).to.equal(0);
    }
    // It looks at the heads of the queues of VMs whose agent is online, and at what runs there.
    expect(await readBy("unclaimed")).to.be.at.most(vmsOnline * concurrency * 2);
  });
});
