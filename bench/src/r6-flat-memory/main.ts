import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createClient } from "@muster/client/client";
import { openAdmin, type Admin } from "@muster/database/admin";
import { openSystem, serviceNames } from "@muster/test/system";
import { pass } from "../harness/clock.ts";
import { runBenchmark } from "../harness/command.ts";
import { tell, type Figure } from "../harness/figure.ts";
import { askable, askHeld, type Held } from "../harness/held.ts";
import { openLoop } from "../harness/load.ts";
import { startSmallAgent } from "../harness/small-agent.ts";
import { trendOf } from "./trend.ts";

/** R6: what each process holds after garbage collection, over a long run at a constant load through the gateway. */
const vms = 64;
const everyMs = 10_000;
const mib = 1_048_576;
/** Less than two bytes a command at 100/s: nothing that is kept for each command is as small. */
const heapKiBPerMinute = 10;
const residentKiBPerMinute = 100;
/** Tables that must not grow with the number of commands. */
const boundedTables = [
  "vm_ops.outbox",
  "reliability.outbox",
  "reliability.dead_letters",
  "reliability.presence",
];
const growingTables = ["vm_ops.commands", "vm_ops.command_events", "vm_ops.inbox", "vm_ops.command_output"];

interface Look {
  readonly minute: number;
  readonly held: Readonly<Record<string, Held>>;
  readonly rows: Readonly<Record<string, number>>;
}

async function rowsOf(admin: Admin, tables: readonly string[]): Promise<Record<string, number>> {
  const rows: Record<string, number> = {};
  for (const table of tables) {
    const [row] = await admin.query<{ count: number }>(`SELECT count(*)::integer AS count FROM ${table}`);
    rows[table] = row?.count ?? Number.NaN;
  }
  return rows;
}

/** Compiled code is no data: in a process that does little, functions go on becoming warm for hours. */
const dataBytes = (held: Held | undefined): number =>
  held === undefined ? Number.NaN : held.heapUsed - held.code;

const handles = (held: Held | undefined): number =>
  Object.values(held?.resources ?? {}).reduce((sum, count) => sum + count, 0);

function figuresOf(looks: readonly Look[], names: readonly string[]): Figure[] {
  const second = looks.slice(Math.floor(looks.length / 2));
  const growth = (of: (look: Look) => number): number =>
    trendOf(second.map((look) => ({ at: look.minute, value: of(look) }))).certainGrowth;
  const figure = (name: string, unit: string, atMost: number, ours: number): Figure => ({
    ...{ name, unit, goal: { atMost }, rounds: [{ ours, raw: 1 }] },
  });
  return [
    ...names.map((name) => {
      const grown = growth((look) => dataBytes(look.held[name]) / 1024);
      return figure(
        `certain growth of the heap's data after collection: ${name}`,
        "KiB/min",
        heapKiBPerMinute,
        grown,
      );
    }),
    ...names.map((name) => {
      const grown = growth((look) => (look.held[name]?.rss ?? Number.NaN) / 1024);
      return figure(`certain growth of resident memory: ${name}`, "KiB/min", residentKiBPerMinute, grown);
    }),
    ...names.map((name) => {
      const grown = growth((look) => handles(look.held[name]));
      return figure(`certain growth of open handles and timers: ${name}`, "1/min", 0.1, grown);
    }),
    ...boundedTables.map((table) => {
      const grown = growth((look) => look.rows[table] ?? Number.NaN);
      return figure(`certain growth of rows: ${table}`, "1/min", 0.1, grown);
    }),
  ];
}

await runBenchmark(
  "r6-flat-memory",
  async (_servers, { json, log, own }) => {
    const { minutes = 0, rate = 0 } = own;
    const folder = await mkdtemp(join(tmpdir(), "muster-bench-r6-held-"));
    const base = { MUSTER_LOG_LEVEL: "info", NODE_ENV: "production" };
    const pathOf = (name: string): string => join(folder, name);
    const env = serviceNames.map((name) => [name, { ...base, ...askable(pathOf(name)) }] as const);
    const system = await openSystem({ env: Object.fromEntries(env) });
    const admin = await openAdmin(system.adminDatabaseUrl);
    try {
      const vmUuids: string[] = [];
      for (let n = 0; n < vms; n++) vmUuids.push(await system.registerVm(`vm-${n}`, 16));
      const agent = await startSmallAgent(system, { vmUuids, env: { ...base, ...askable(pathOf("agent")) } });
      const client = createClient({ baseUrl: system.gatewayUrl, token: system.apiKey });
      const pids: Record<string, number> = { agent: agent.pid };
      for (const name of serviceNames) pids[name] = system.services[name].pid;
      const looks: Look[] = [];
      const startedMs = performance.now();
      const loaded = openLoop({ rate, seconds: minutes * 60 }, async (n) => {
        await client.acceptCommand({
          body: {
            vm_uuid: vmUuids[n % vms]!,
            action: "script",
            params: { interpreter: "sh", text: "#".repeat(500) },
          },
        });
      });
      for (let due = everyMs; due <= minutes * 60_000; due += everyMs) {
        await pass(Math.max(0, startedMs + due - performance.now()));
        const held: Record<string, Held> = {};
        for (const [name, pid] of Object.entries(pids)) held[name] = await askHeld(pathOf(name), pid);
        looks.push({ minute: due / 60_000, held, rows: await rowsOf(admin, boundedTables) });
        const heaps = Object.entries(held).map(
          ([name, one]) => `${name} ${(dataBytes(one) / mib).toFixed(1)}`,
        );
        log(`${(due / 60_000).toFixed(1)} min, heap MiB: ${heaps.join(", ")}`);
      }
      const { started, failed } = await loaded;
      const observed = {
        ...{ minutes, rate, vms, started, failed },
        rowsAtTheEnd: await rowsOf(admin, [...boundedTables, ...growingTables]),
        processes: Object.fromEntries(Object.keys(pids).map((name) => [name, seriesOf(looks, name)])),
      };
      await agent.stop();
      await tell(
        { benchmark: "r6-flat-memory", figures: figuresOf(looks, Object.keys(pids)), observed },
        json,
      );
    } finally {
      await admin.close();
      await system.close();
      await rm(folder, { recursive: true, force: true });
    }
  },
  { minutes: 10, rate: 100 },
);

/** The whole course of one process, rounded, with the trend of its second half. */
function seriesOf(looks: readonly Look[], name: string) {
  const of = (value: (held: Held) => number): number[] =>
    looks.flatMap(({ held }) =>
      held[name] === undefined ? [] : [Math.round(value(held[name]) * 100) / 100],
    );
  const second = looks.slice(Math.floor(looks.length / 2));
  const points = second.map((look) => ({ at: look.minute, value: dataBytes(look.held[name]) / 1024 }));
  return {
    heapMiB: of((held) => dataBytes(held) / mib),
    codeMiB: of((held) => held.code / mib),
    externalMiB: of((held) => held.external / mib),
    residentMiB: of((held) => held.rss / mib),
    handles: of(handles),
    heapKiBPerMinute: trendOf(points),
    resourcesAtTheEnd: looks.at(-1)?.held[name]?.resources ?? {},
  };
}
