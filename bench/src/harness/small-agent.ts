import { spawn } from "node:child_process";
import { once } from "node:events";
import { createWriteStream } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { uuidv7 } from "@muster/contracts/ids";
import { pairWithoutKey } from "@muster/test/agents/pairing";
import { freePort, repository } from "@muster/test/processes";
import type { System } from "@muster/test/system";
import { eventuallyHolds } from "@muster/testing/eventually";
import { agentLoginName } from "@muster/contracts/senders";
import { pass } from "./clock.ts";

export interface SmallAgent {
  readonly pid: number;
  readonly internalUrl: string;
  /** From its start until it said that it was ready, in ms. */
  readonly readyMs: number;
  stop(): Promise<void>;
}

/** Resolves with the time that has passed, in ms, when the process answers that it is ready. */
export async function untilReady(internalUrl: string, fromMs: number, timeoutMs = 30_000): Promise<number> {
  for (;;) {
    const ready = await fetch(`${internalUrl}/readyz`).then(
      async (answer) => {
        await answer.arrayBuffer();
        return answer.ok;
      },
      () => false,
    );
    const tookMs = performance.now() - fromMs;
    if (ready) return tookMs;
    if (tookMs > timeoutMs) throw new Error(`${internalUrl} is not ready after ${timeoutMs} ms`);
    await pass(5);
  }
}

/** An echoing agent by its own launcher, with the heap that the launcher gives it. */
export async function startSmallAgent(
  system: Pick<System, "vhost" | "tenantId" | "folder" | "client">,
  o: { vmUuids: readonly string[]; env?: Record<string, string> },
): Promise<SmallAgent> {
  const agentId = uuidv7();
  const epoch = await pairWithoutKey(system.client, { agentId, vmUuids: o.vmUuids });
  const amqpUrl = await system.vhost.urlAs(agentLoginName(agentId, { epoch }));
  const port = await freePort();
  const internalUrl = `http://127.0.0.1:${port}`;
  const fromMs = performance.now();
  const child = spawn(join(repository, "agent/bin/muster-agent"), {
    cwd: "/",
    stdio: ["ignore", "pipe", "pipe"],
    env: {
      PATH: [dirname(process.execPath), process.env.PATH].join(delimiter),
      HOME: process.env.HOME,
      MUSTER_AMQP_URL: amqpUrl,
      MUSTER_TENANT_ID: system.tenantId,
      MUSTER_AGENT_ID: agentId,
      MUSTER_AGENT_VMS: o.vmUuids.join(","),
      MUSTER_AGENT_HOME: join(system.folder, `agent-${agentId}`),
      MUSTER_AGENT_DRIVERS: "echo",
      MUSTER_INTERNAL_PORT: String(port),
      MUSTER_LOG_LEVEL: "info",
      ...o.env,
    },
  });
  const log = createWriteStream(join(system.folder, `small-agent-${agentId}.log`), { flags: "a" });
  child.stdout.pipe(log);
  child.stderr.pipe(log);
  const readyMs = await untilReady(internalUrl, fromMs);
  await eventuallyHolds(async () => {
    const { data } = await system.client.listAgents();
    if (!data.agents.some((one) => one.agent_id === agentId && one.state === "online"))
      throw new Error("offline");
  }, 30_000);
  return {
    pid: child.pid ?? 0,
    internalUrl,
    readyMs,
    async stop() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const exited = once(child, "exit");
      child.kill("SIGTERM");
      await exited;
    },
  };
}
