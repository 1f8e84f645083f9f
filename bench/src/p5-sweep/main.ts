import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openBroker, type Broker } from "@muster/broker/broker";
import { uuidv7 } from "@muster/contracts/ids";
import { vmQueue } from "@muster/contracts/topology";
import { sweepRules, vmOpsRequests } from "@muster/contracts/vm-ops";
import { openAdmin, type Admin } from "@muster/database/admin";
import { openLogger } from "@muster/telemetry/logger";
import { createMetrics } from "@muster/telemetry/metrics";
import { freePort, ManagedProcess, repository } from "@muster/test/processes";
import { applyMesh } from "@muster/test/topology";
import { setupDatabase } from "@muster/testing/database";
import { eventuallyHolds } from "@muster/testing/eventually";
import { setupVhost } from "@muster/testing/vhost";
import { loginName } from "@muster/contracts/senders";
import { runBenchmark } from "../harness/command.ts";
import { median, tell, type Figure, type Sample } from "../harness/figure.ts";
import { fill, lastVm, type Fleet } from "./fill.ts";
import { chooseStale, makeStale, settle, touched, type Rule } from "./stale.ts";

const fleet: Fleet = { vms: 1_000, agents: 40, tenants: 4 };
const warmUps = 1;
const [idle, busy] = ["nothing stale", "all rules"] as const;

/** vm-ops, alone with a database of so many commands and a vhost: nobody else asks it to sweep. */
interface Bed {
  readonly commands: number;
  readonly admin: Admin;
  /** How long it took, in ms, and what it changed. */
  sweep(rules: readonly Rule[]): Promise<{ ms: number; changed: number }>;
  /** Everything that was said is confirmed by the broker. */
  quiet(): Promise<void>;
  close(): Promise<void>;
}

async function openBed(commands: number, folder: string, log: (line: string) => void): Promise<Bed> {
  const vhost = await setupVhost();
  const database = await setupDatabase({
    migrations: [{ schema: "vm_ops", directory: join(repository, "services/vm-ops/migrations") }],
  });
  await applyMesh(vhost.amqpUrl, vhost.managementUrl);
  const admin = await openAdmin(database.adminUrl);
  const fromMs = performance.now();
  await fill(admin, fleet, commands);
  await chooseStale(admin, fleet, 1_000);
  log(`filled ${commands} commands in ${Math.round(performance.now() - fromMs)} ms`);
  const vmOps = new ManagedProcess({
    name: `vm-ops-${commands}`,
    entry: "services/vm-ops/dist/src/main.js",
    env: {
      MUSTER_AMQP_URL: await vhost.urlAs(loginName("vm-ops")),
      MUSTER_DATABASE_URL: database.urlFor("vm_ops"),
      MUSTER_VM_QUEUE_TYPE: "classic",
      MUSTER_LOG_LEVEL: "info",
    },
    logFolder: folder,
    internalPort: await freePort(),
  });
  vmOps.start();
  await vmOps.ready();
  // It has been up for long: nobody is given time to claim because of an outage.
  await admin.run("UPDATE liveness SET resumed_at = now() - interval '1 day'");
  const broker = await openBroker({
    ...{ url: await vhost.urlAs(loginName("reliability")), name: "bench" },
    logger: openLogger({ service: "bench", level: "silent" }),
    metrics: createMetrics({ service: "bench" }),
  });
  // At its start vm-ops sees to every queue once; that is no part of a sweep.
  const { tenantId, vmUuid } = lastVm(fleet);
  await eventuallyHolds(async () => {
    if (!(await broker.queueExists(vmQueue(tenantId, vmUuid))))
      throw new Error("queues are still being made");
  }, 60_000);
  return {
    commands,
    admin,
    sweep: (rules) => sweep(broker, rules),
    quiet: () =>
      eventuallyHolds(async () => {
        const [row] = await admin.query<{ left: string }>("SELECT count(*) AS left FROM outbox");
        if (row?.left !== "0") throw new Error(`${row?.left} messages are not confirmed`);
      }, 60_000),
    async close() {
      await broker.close();
      await vmOps.stop();
      await admin.close();
      await database.destroy();
      await vhost.destroy();
    },
  };
}

async function sweep(broker: Broker, rules: readonly Rule[]): Promise<{ ms: number; changed: number }> {
  const payload = {
    ...{ rules: [...rules], limit: 10_000, dry_run: false },
    ...{ running_max_ms: 900_000, dispatched_max_ms: 1_800_000, dispatch_max_requeues: 2 },
  };
  const fromMs = performance.now();
  const report = await broker.request(vmOpsRequests.sweepCommands, payload, { correlationId: uuidv7() });
  const ms = performance.now() - fromMs;
  return { ms, changed: report.rules.reduce((sum, { changed }) => sum + changed, 0) };
}

/** One sweep of 1,000 stale commands by one rule, in ms. */
async function measure(bed: Bed, rule: Rule): Promise<number> {
  const stale = await makeStale(bed.admin, rule);
  const { ms, changed } = await bed.sweep([rule]);
  if (stale !== changed) throw new Error(`${rule}: of ${stale} stale commands ${changed} were swept`);
  await bed.quiet();
  await settle(bed.admin, rule);
  return ms;
}

/** The database's own count of what one sweep read, by which index. */
async function readBy(bed: Bed, rule: Rule) {
  await makeStale(bed.admin, rule);
  const before = await touched(bed.admin);
  await bed.sweep([rule]);
  await bed.quiet();
  const after = await touched(bed.admin);
  await settle(bed.admin, rule);
  const entriesRead = Object.entries(after.entriesRead)
    .map(([name, read]) => [name, read - (before.entriesRead[name] ?? 0)] as const)
    .filter(([, read]) => read > 0);
  return { seqScans: after.seqScans - before.seqScans, entriesRead: Object.fromEntries(entriesRead) };
}

/** Alternates between the two, so that whatever else the machine does meets both. */
async function measureAll(few: Bed, many: Bed, rounds: number, log: (line: string) => void) {
  const taken = new Map<string, Sample[]>();
  for (let round = -warmUps; round < rounds; round++) {
    const sum = { ours: 0, raw: 0 };
    const note = (name: string, sample: Sample): void => {
      if (round >= 0) taken.set(name, [...(taken.get(name) ?? []), sample]);
      log(`${name}: ${sample.ours.toFixed(1)} ms, among few ${sample.raw.toFixed(1)} ms`);
    };
    for (const rule of sweepRules) {
      const raw = await measure(few, rule);
      const ours = await measure(many, rule);
      note(rule, { ours, raw });
      sum.ours += ours;
      sum.raw += raw;
    }
    note(busy, sum);
    note(idle, { raw: await idleMs(few), ours: await idleMs(many) });
  }
  const name = `sweeping 1,000 stale commands among ${many.commands} against among ${few.commands}`;
  return [...taken].map(([what, samples]): Figure => ({
    ...{ name: `${name}: ${what}`, unit: "ms", goal: { atMost: 1.5 }, rounds: samples },
  }));
}

async function idleMs(bed: Bed): Promise<number> {
  const took: number[] = [];
  for (let n = 0; n < 20; n++) took.push((await bed.sweep(sweepRules)).ms);
  return median(took);
}

await runBenchmark(
  "p5-sweep",
  async (_servers, { rounds, json, log, own }) => {
    const folder = await mkdtemp(join(tmpdir(), "muster-bench-p5-logs-"));
    const beds: Bed[] = [];
    try {
      const few = await openBed(own.few ?? 0, folder, log);
      beds.push(few);
      const many = await openBed(own.many ?? 0, folder, log);
      beds.push(many);
      const figures = await measureAll(few, many, rounds, log);
      const reads: Record<string, unknown> = {};
      for (const rule of sweepRules) {
        reads[rule] = await readBy(many, rule);
      }
      await tell(
        { benchmark: "p5-sweep", figures, observed: { fleet, readAmongManyByOneSweep: reads } },
        json,
      );
    } finally {
      // What a bed leaves behind ends with its servers.
      for (const bed of beds.reverse()) await bed.close().catch((error: unknown) => log(String(error)));
      await rm(folder, { recursive: true, force: true });
    }
  },
  { few: 10_000, many: 1_000_000 },
);
