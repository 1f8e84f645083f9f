import { spawn, type ChildProcess } from "node:child_process";
import { fileURLToPath } from "node:url";
import { temporaryHome } from "./agent-side.ts";
import type { ScriptedMesh } from "./scripted-mesh.ts";

const program = fileURLToPath(new URL("../../bin/muster-agent", import.meta.url));

export interface AgentProcess {
  readonly child: ChildProcess;
  readonly log: () => string;
  readonly exit: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
  crash(): Promise<void>;
  stop(): Promise<number | null>;
}

export function spawnAgent(env: Record<string, string>): AgentProcess {
  const child = spawn(program, [], {
    env: { PATH: process.env["PATH"] ?? "", ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let log = "";
  for (const stream of [child.stdout, child.stderr])
    stream.on("data", (chunk: Buffer) => (log += chunk.toString()));
  const exit = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve) => {
    child.once("close", (code, signal) => resolve({ code, signal }));
  });
  return {
    child,
    exit,
    log: () => log,
    crash: async () => {
      child.kill("SIGKILL");
      await exit;
    },
    stop: async () => {
      child.kill("SIGTERM");
      return (await exit).code;
    },
  };
}

export interface InstalledAgent {
  readonly home: string;
  readonly env: Record<string, string>;
  start(): AgentProcess;
  remove(): Promise<void>;
}

/** An agent that has a password at the broker. */
export function installAgent(mesh: ScriptedMesh): Promise<InstalledAgent> {
  return agentIn({
    MUSTER_AMQP_URL: mesh.link.url,
    MUSTER_TENANT_ID: mesh.tenantId,
    MUSTER_AGENT_ID: mesh.agentId,
    MUSTER_AGENT_VMS: mesh.vmUuids.join(","),
  });
}

/** An installed agent: a home and settings that outlive its processes. */
export async function agentIn(settings: Record<string, string>): Promise<InstalledAgent> {
  const { home, remove } = await temporaryHome();
  const env: Record<string, string> = {
    ...settings,
    MUSTER_AGENT_HOME: home,
    MUSTER_AGENT_STOP_GRACE_MS: "500",
    MUSTER_AGENT_KILL_GRACE_MS: "500",
    MUSTER_INTERNAL_PORT: "0",
    MUSTER_LOG_LEVEL: "debug",
  };
  const processes: AgentProcess[] = [];
  const start = (): AgentProcess => {
    const started = spawnAgent(env);
    processes.push(started);
    return started;
  };
  return {
    ...{ home, env, start },
    remove: async () => {
      await Promise.all(processes.map((one) => one.crash()));
      await remove();
    },
  };
}
