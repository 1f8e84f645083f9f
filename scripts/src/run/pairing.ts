import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Client } from "@muster/client/client";
import { MusterError } from "@muster/contracts/errors";
import { z } from "zod";
import { mustRun } from "../system/child.ts";
import { logFileOf, programOf } from "./folder.ts";
import type { RunFolder } from "./folder.ts";
import type { Machine } from "./preparation.ts";

const pairTimeoutMs = 30_000;
const identity = z.object({ agent_id: z.string(), epoch: z.number() });

export interface PairingOptions {
  readonly folder: RunFolder;
  readonly env: NodeJS.ProcessEnv;
  readonly gatewayUrl: string;
  readonly signal: AbortSignal;
}

/** The agent of this machine, paired as an operator would do it, unless it is already; answers its epoch. */
export async function ensurePaired(client: Client, machine: Machine, o: PairingOptions): Promise<number> {
  const known = await epochAtAuth(client, machine.agent_id, o.signal);
  if (known !== undefined && known === epochAtHome(o.folder, machine.agent_id)) return known;
  const { data } = await client.createPairingCode({
    body: { agent_id: machine.agent_id, name: machine.name, vm_uuids: [machine.vm_uuid] },
    signal: o.signal,
  });
  if (data.code === null) throw new Error("auth made no pairing code");
  await mustRun(process.execPath, [programOf("agent", "identity/main"), "--gateway", o.gatewayUrl], {
    env: { ...o.env, MUSTER_AGENT_HOME: o.folder.agentHome, MUSTER_PAIRING_CODE: data.code },
    logFile: logFileOf(o.folder, "agent-pair"),
    timeoutMs: pairTimeoutMs,
    signal: o.signal,
  });
  const epoch = epochAtHome(o.folder, machine.agent_id);
  if (epoch === undefined) throw new Error(`the agent was paired, but ${o.folder.agentHome} has no identity`);
  return epoch;
}

/** Undefined where it is unknown there, or was revoked. */
async function epochAtAuth(client: Client, id: string, signal: AbortSignal): Promise<number | undefined> {
  try {
    const { data } = await client.getPairedAgent({ params: { agent_id: id }, signal });
    return data.agent.state === "paired" ? data.agent.epoch : undefined;
  } catch (error) {
    if (error instanceof MusterError && error.code === "AGENT_NOT_FOUND") return undefined;
    throw error;
  }
}

function epochAtHome({ agentHome }: RunFolder, agentId: string): number | undefined {
  try {
    const kept = identity.parse(JSON.parse(readFileSync(join(agentHome, "identity.json"), "utf8")));
    return kept.agent_id === agentId ? kept.epoch : undefined;
  } catch {
    return undefined;
  }
}
