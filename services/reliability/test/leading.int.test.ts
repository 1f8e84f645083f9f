import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { authRequests } from "@muster/contracts/auth";
import { MusterError } from "@muster/contracts/errors";
import type { WorkContext } from "@muster/contracts/envelope";
import { reliabilityRequests } from "@muster/contracts/reliability";
import { sweepRules } from "@muster/contracts/vm-ops";
import { openAdmin } from "@muster/database/admin";
import { eventually } from "@muster/testing/eventually";
import { expect } from "chai";
import { leaderApplicationName } from "../src/leader/leader.ts";
import {
  asking,
  closeAfterTest,
  inSystem,
  metricOf,
  openPeer,
  setupGround,
  startReliability,
  type Ground,
  closeAfterEachTest,
} from "./setup.ts";
import { emptyReport, openVmOpsPeer } from "./vm-ops-peer.ts";

closeAfterEachTest();

/** The service as its own process; resolves when it is ready, with the port of its internal server. */
async function spawnService(ground: Ground): Promise<{ process: ChildProcess; port: number }> {
  const main = fileURLToPath(new URL("../src/main.js", import.meta.url));
  const child = spawn(process.execPath, [main], {
    env: { PATH: process.env["PATH"], ...ground.env, MUSTER_INTERNAL_PORT: "0" },
    stdio: ["ignore", "pipe", "inherit"],
  });
  closeAfterTest({ close: () => killed(child, "SIGKILL") });
  let output = "";
  child.stdout?.on("data", (chunk: Buffer) => (output += chunk.toString()));
  const port = await eventually(() => {
    if (child.exitCode !== null) throw new Error(`it ended with ${child.exitCode}: ${output}`);
    const ready = output.includes('"msg":"ready"');
    return ready && Number(/"internal_port":(\d+)/.exec(output)?.[1]);
  }, 30_000);
  return { process: child, port };
}

const readiness = async (port: number) => {
  const answer = await fetch(`http://127.0.0.1:${port}/readyz`);
  return (await answer.json()) as { dependencies: Record<string, { detail?: { leader?: boolean } }> };
};
const leads = async (port: number) => (await readiness(port)).dependencies["leader"]?.detail?.leader === true;

async function killed(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, "exit");
  child.kill(signal);
  await ended;
}

describe("leadership", () => {
  it("passes to another process within ten seconds when the leader is killed", async () => {
    const ground = await setupGround();
    const first = await spawnService(ground);
    await eventually(() => leads(first.port));
    const second = await spawnService(ground);
    expect(await leads(second.port)).to.equal(false);
    await killed(first.process, "SIGKILL");
    await eventually(() => leads(second.port), 10_000);
    await killed(second.process, "SIGTERM");
    expect(second.process.exitCode).to.equal(0);
  });

  it("passes on, and comes back, when the session that holds it is cut; work runs at one leader only", async () => {
    const ground = await setupGround();
    const { script } = await openVmOpsPeer(ground);
    const services = [await startReliability(ground), await startReliability(ground)];
    const leading = async () => {
      const values = await Promise.all(services.map(({ metrics }) => metricOf(metrics, "muster_leader")));
      return values.filter((value) => value === 1).length === 1 ? values.indexOf(1) : undefined;
    };
    await eventually(async () => (await leading()) !== undefined);
    let running = 0;
    let runningMost = 0;
    script.sweep = async () => {
      runningMost = Math.max(runningMost, ++running);
      await new Promise((resolve) => setImmediate(resolve));
      running -= 1;
      return emptyReport();
    };
    const admin = closeAfterTest(await openAdmin(ground.database.adminUrl));
    const cut = `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '${leaderApplicationName}'
      AND datname = current_database() AND pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted)`;
    for (let round = 0; round < 3; round++) {
      await admin.query(cut);
      const before = script.swept.length;
      await eventually(
        async () => script.swept.length > before + 2 && (await leading()) !== undefined,
        10_000,
      );
    }
    expect(runningMost).to.equal(1);
  });
});

describe("sweeps", () => {
  it("go on while there is more, with our thresholds, counted by rule, and outlast vm-ops being away", async () => {
    const ground = await setupGround();
    const service = await startReliability(ground, { MUSTER_VMOPS_DISPATCH_MAX_REQUEUES: "5" });
    const report = (more: boolean) => ({
      ...emptyReport(),
      rules: [
        {
          rule: "unclaimed" as const,
          matched: 3,
          changed: 3,
          expired: 0,
          requeued: 2,
          dead_lettered: 1,
          command_ids: [],
        },
      ],
      more,
    });
    // Scripted before it answers: a sweep waits in its queue already.
    const { broker, script } = await openVmOpsPeer(ground, {
      sweep: (_, nth) => (nth <= 4 ? report(nth < 4) : emptyReport()),
    });
    await eventually(() => script.swept.length >= 6);
    expect(script.swept[0]).to.deep.equal({
      rules: [...sweepRules],
      running_max_ms: 900_000,
      dispatched_max_ms: 60_000,
      dispatch_max_requeues: 5,
      limit: 500,
      dry_run: false,
    });
    const counted = (outcome: string) =>
      metricOf(service.metrics, "muster_sweep_commands_total", { rule: "unclaimed", outcome });
    expect([await counted("requeued"), await counted("dead_lettered")]).to.deep.equal([8, 4]);
    await broker.close();
    const again = await openVmOpsPeer(ground);
    await eventually(() => again.script.swept.length > 1);
    expect(await metricOf(service.metrics, "muster_leader")).to.equal(1);
  });

  it("run on demand for admins only, dry if asked, with request and answer written down", async () => {
    const ground = await setupGround();
    const service = await startReliability(ground, { MUSTER_RELIABILITY_SWEEP_INTERVAL_MS: "600000" });
    const { script } = await openVmOpsPeer(ground);
    const gateway = await openPeer(ground, "gateway");
    const run = (context: ReturnType<typeof asking>) =>
      gateway.request(
        reliabilityRequests.runSweep,
        { rules: ["unclaimed"], limit: 7, dry_run: true },
        context,
      );
    const refused = await run(asking(ground, "acme", "member")).catch((error: unknown) => error);
    expect(refused).to.be.instanceOf(MusterError).and.to.include({ code: "FORBIDDEN" });
    const foreign = "0190a000-0000-7000-8000-000000000001";
    script.sweep = (asked) => ({
      ...emptyReport(asked.dry_run),
      rules: [
        {
          rule: "unclaimed",
          matched: 1,
          changed: 0,
          expired: 0,
          requeued: 0,
          dead_lettered: 0,
          command_ids: [foreign],
        },
      ],
    });
    const report = await run(asking(ground, "acme", "admin", "user:me"));
    expect(report.dry_run).to.equal(true);
    expect(report.rules[0], "another tenant's command is counted, not named").to.deep.include({
      matched: 1,
      command_ids: [],
    });
    const asked = script.swept.filter(({ dry_run }) => dry_run);
    expect(asked).to.have.length(1);
    expect(asked[0]).to.deep.include({ limit: 7, rules: ["unclaimed"] });
    const audit = await inSystem(service.database, "SELECT actor, action FROM sweep_audit ORDER BY id");
    expect(audit).to.deep.equal([
      { actor: "user:me", action: "requested" },
      { actor: "user:me", action: "answered" },
    ]);
  });
});

describe("the leader's other work", () => {
  it("has inbox rows pruned until few are left, and counts what must be 0", async () => {
    const ground = await setupGround();
    const service = await startReliability(ground);
    const { script } = await openVmOpsPeer(ground, {
      prune: (nth) => ({ removed: nth === 1 ? 10_000 : 3 }),
      audit: () => ({ lost_commands: 1, double_starts: 2, outbox_stale: 3 }),
    });
    await inSystem(
      service.database,
      `INSERT INTO inbox (consumer, message_id, received_at) VALUES ('c', 'old', now() - interval '30 days'), ('c', 'new', now())`,
    );
    await eventually(() => script.pruned.length >= 2);
    expect(script.pruned[0]).to.deep.equal({ older_than_ms: 7 * 86_400_000, limit: 10_000 });
    await eventually(async () => {
      const rows = await inSystem<{ message_id: string }>(service.database, "SELECT message_id FROM inbox");
      return rows.map((row) => row.message_id).join() === "new";
    });
    const audits = ["lost_commands", "double_starts", "outbox_stale"];
    await eventually(async () => {
      const values = await Promise.all(
        audits.map((audit) => metricOf(service.metrics, "muster_audit", { audit })),
      );
      return values.join() === "1,2,3";
    });
  });

  it("puts the broker's policy for VM queues back when someone changes it, and says so until it has", async () => {
    const ground = await setupGround();
    const service = await startReliability(ground, { MUSTER_VMOPS_DISPATCH_MAX_REQUEUES: "7" });
    const policy = async () => {
      const live = await ground.vhost.call("GET", "/policies/{vhost}/vm");
      return live as { definition: Record<string, unknown>; pattern: string };
    };
    const health = () => service.health.get("mirror")?.();
    expect((await policy()).definition).to.include({
      "delivery-limit": 7,
      "dead-letter-exchange": "muster.dead-letters",
      "dead-letter-strategy": "at-least-once",
    });
    expect(health()).to.deep.equal({ ok: true });
    const changed = await policy();
    await ground.vhost.call("PUT", "/policies/{vhost}/vm", {
      pattern: changed.pattern,
      "apply-to": "queues",
      definition: { ...changed.definition, "delivery-limit": 1_000 },
    });
    await eventually(async () => (await policy()).definition["delivery-limit"] === 7);
    await eventually(() => health()?.ok);
    expect(await metricOf(service.metrics, "muster_mirror_mended_total")).to.equal(2);
    await ground.vhost.call("PUT", "/policies/{vhost}/stranger", {
      pattern: "^vm",
      "apply-to": "queues",
      definition: { "max-length": 1 },
    });
    const reason = await eventually(() => health()?.reason);
    expect(reason).to.match(/stranger/);
  });
});

describe("the topology", () => {
  it("is declared again where a queue, an exchange or a binding was deleted by hand", async () => {
    const ground = await setupGround();
    const service = await startReliability(ground, {});
    for (const queue of ["auth.requests", "vm-ops.agents"]) await ground.vhost.deleteQueue(queue);
    await ground.vhost.call("DELETE", "/exchanges/{vhost}/muster.vm-ops.events");
    const bindings = async () => {
      const rows = await ground.vhost.call("GET", "/queues/{vhost}/vm-ops.agents/bindings");
      return (rows as { source: string }[]).filter(({ source }) => source === "muster.agents");
    };
    await eventually(async () => (await bindings()).length === 4, 20_000);
    await ground.vhost.call("GET", "/queues/{vhost}/auth.requests");
    await ground.vhost.call("GET", "/exchanges/{vhost}/muster.vm-ops.events");
    const restored = await metricOf(service.metrics, "muster_topology_restored_total", { what: "queue" });
    expect(restored).to.equal(2);
  });
});

describe("the process", () => {
  it("names variable, bound and value, and does not start, when a threshold is below its bound", async () => {
    const main = fileURLToPath(new URL("../src/main.js", import.meta.url));
    const env = {
      PATH: process.env["PATH"],
      MUSTER_AMQP_URL: "amqp://127.0.0.1",
      MUSTER_MANAGEMENT_URL: "http://127.0.0.1",
      MUSTER_DATABASE_URL: "postgres://u:p@127.0.0.1/x",
      MUSTER_VMOPS_RUNNING_MAX_MS: "59999",
      MUSTER_VMOPS_DISPATCHED_MAX_MS: "14999",
      MUSTER_VMOPS_DISPATCH_MAX_REQUEUES: "-1",
    };
    const child = spawn(process.execPath, [main], { env, stdio: ["ignore", "ignore", "pipe"] });
    let said = "";
    child.stderr?.on("data", (chunk: Buffer) => (said += chunk.toString()));
    const [code] = (await once(child, "close")) as [number];
    expect(code).to.equal(78);
    expect(said).to.match(/RUNNING_MAX_MS: must be .* 60000 .*"59999"/);
    expect(said).to.match(/DISPATCHED_MAX_MS: must be .* 15000 .*"14999"/);
    expect(said).to.match(/DISPATCH_MAX_REQUEUES: must be .* 0 .*"-1"/);
  });

  it("verifies callers by the keys that the auth service publishes", async () => {
    const ground = await setupGround();
    const auth = await openPeer(ground, "auth");
    const { getMeshKeys, registerMeshKey, listTokenRevocations } = authRequests;
    const handlers = {
      getMeshKeys: async () => ({ keys: ground.meshKeys }),
      registerMeshKey: () => Promise.reject(new MusterError("INTERNAL")),
      listTokenRevocations: async () => ({ items: [], next_cursor: null }),
    };
    await auth.serve("auth", { getMeshKeys, registerMeshKey, listTokenRevocations }, handlers);
    const service = await spawnService(ground);
    const gateway = await openPeer(ground, "gateway");
    const list = (context: WorkContext) =>
      gateway.request(reliabilityRequests.listDeadLetters, { filter: {}, limit: 1 }, context);
    expect(await list(asking(ground, "acme", "member"))).to.deep.equal({ items: [], next_cursor: null });
    const refused = await list({ correlationId: "c" }).catch((error: unknown) => error);
    expect(refused).to.be.instanceOf(MusterError).and.to.include({ code: "MISSING_BEARER_TOKEN" });
    await killed(service.process, "SIGTERM");
    expect(service.process.exitCode).to.equal(0);
  });
});
