import { openAdmin } from "@muster/database/admin";
import { createClient } from "@muster/client/client";
import { openSystem, serviceNames, type System } from "@muster/test/system";
import { pass } from "../harness/clock.ts";
import { runBenchmark } from "../harness/command.ts";
import { tell, type Figure } from "../harness/figure.ts";
import { closedLoop } from "../harness/load.ts";
import { residentMiB, watchMemory } from "../harness/memory.ts";
import { startSmallAgent, untilReady } from "../harness/small-agent.ts";

/** P6: resident memory of each process under load through the gateway, and how long each takes from start to ready. */
const vms = 64;
const callers = 32;
const settleMs = 10_000;
const serviceMiB = 150;
const agentMiB = 80;
const readyMsMax = 2_000;

/** Each service once more, while everything that it depends on is there. */
async function startTimes(system: System, log: (line: string) => void): Promise<Record<string, number>> {
  const times: Record<string, number> = {};
  for (const name of serviceNames) {
    const service = system.services[name];
    await service.stop();
    const fromMs = performance.now();
    service.start();
    times[name] = await untilReady(service.internalUrl, fromMs);
    log(`${name}: ready after ${times[name].toFixed(0)} ms`);
  }
  return times;
}

/** `callers` clients that ask for one command after another, and nothing else. */
async function load(system: System, vmUuids: readonly string[], seconds: number) {
  const client = createClient({ baseUrl: system.gatewayUrl, token: system.apiKey, attemptsMax: 1 });
  return closedLoop({ inFlight: callers, seconds }, async (n) => {
    await client.acceptCommand({
      body: {
        vm_uuid: vmUuids[n % vms]!,
        action: "script",
        params: { interpreter: "sh", text: "#".repeat(1_000) },
      },
    });
  });
}

async function settled(system: System): Promise<number> {
  const admin = await openAdmin(system.adminDatabaseUrl);
  for (;;) {
    const [row] = await admin.query<{ open: number; ended: number }>(
      `SELECT count(*) FILTER (WHERE phase <> 'ended')::integer AS open,
         count(*) FILTER (WHERE state = 'succeeded')::integer AS ended FROM vm_ops.commands`,
    );
    if (row?.open === 0) {
      await admin.close();
      return row.ended;
    }
    await pass(100);
  }
}

const counted = (name: string, unit: string, atMost: number, values: readonly number[]): Figure => ({
  name,
  unit,
  goal: { atMost },
  rounds: values.map((ours) => ({ ours, raw: 1 })),
});

await runBenchmark("p6-memory", async (_servers, { rounds, seconds, json, log }) => {
  const info = { MUSTER_LOG_LEVEL: "info", NODE_ENV: "production" };
  const system = await openSystem({ env: Object.fromEntries(serviceNames.map((name) => [name, info])) });
  const starts: Record<string, number>[] = [];
  const most: Record<string, number>[] = [];
  const after: Record<string, number>[] = [];
  const loads: object[] = [];
  try {
    for (let round = 0; round < rounds; round++) starts.push(await startTimes(system, log));
    const vmUuids: string[] = [];
    for (let n = 0; n < vms; n++) vmUuids.push(await system.registerVm(`vm-${n}`, 16));
    const agent = await startSmallAgent(system, { vmUuids, env: { NODE_ENV: "production" } });
    const pids: Record<string, number> = { agent: agent.pid };
    for (const name of serviceNames) pids[name] = system.services[name].pid;
    const idle: Record<string, number> = {};
    for (const [name, pid] of Object.entries(pids)) idle[name] = (await residentMiB(pid)).now;
    const watch = watchMemory(pids);
    for (let round = 0; round < rounds; round++) {
      watch.takeMax();
      const { done, failed } = await load(system, vmUuids, seconds);
      const completed = await settled(system);
      most.push(watch.takeMax());
      loads.push({ accepted: done, refused: failed, completedInAll: completed });
      log(`round ${round + 1}: ${JSON.stringify({ ...loads.at(-1), most: most.at(-1) })}`);
    }
    await pass(settleMs);
    for (const [name, pid] of Object.entries(pids)) after.push({ [name]: (await residentMiB(pid)).now });
    watch.stop();
    const figures = [
      ...serviceNames.map((name) =>
        counted(
          `resident under load: ${name}`,
          "MiB",
          serviceMiB,
          most.map((one) => one[name] ?? Number.NaN),
        ),
      ),
      counted(
        "resident under load: agent",
        "MiB",
        agentMiB,
        most.map((one) => one.agent ?? Number.NaN),
      ),
      ...serviceNames.map((name) =>
        counted(
          `start to ready: ${name}`,
          "ms",
          readyMsMax,
          starts.map((one) => one[name] ?? Number.NaN),
        ),
      ),
      counted("start to ready: agent", "ms", readyMsMax, [agent.readyMs]),
    ];
    const observed = {
      vms,
      callers,
      secondsOfLoad: seconds * rounds,
      idleMiB: idle,
      afterMiB: Object.assign({}, ...after),
      loads,
    };
    await tell({ benchmark: "p6-memory", figures, observed }, json);
    await agent.stop();
  } finally {
    await system.close();
  }
});
