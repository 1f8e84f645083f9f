import { createHash } from "node:crypto";
import { existsSync, renameSync } from "node:fs";
import { join } from "node:path";
import { pairingCodePattern } from "@muster/contracts/pairing";
import { openHome } from "../journal/home.ts";
import { GatewayDoor } from "./gateway.ts";
import { keyFor, privateKeyOf, readIdentity, writeIdentity } from "./identity.ts";
import type { Identity } from "./identity.ts";

export interface PairOptions {
  readonly gatewayUrl: string;
  readonly code: string;
  readonly home: string;
}

export interface Paired {
  readonly identity: Identity;
  readonly vmUuids: readonly string[];
  /** Where the journal of another agent that used this home was put. */
  readonly movedJournal: string | undefined;
}

/**
 * Pairs the agent of this home: makes its key, proves it, and keeps what comes back. Broken off anywhere and begun again with
 * the same code it does the same. Throws HomeInUse where the agent runs, IdentityDamaged, MusterError.
 */
export async function pair({ gatewayUrl, code, home: path }: PairOptions): Promise<Paired> {
  if (!pairingCodePattern.test(code)) throw new Error("a pairing code reads mp_ and 43 more characters");
  const home = openHome(path);
  try {
    const before = readIdentity(home.path);
    const codeSha256 = createHash("sha256").update(code).digest("hex");
    const privateKey = keyFor(home.path, codeSha256);
    const paired = await new GatewayDoor(gatewayUrl).pair(code, codeSha256, privateKeyOf(privateKey));
    const identity: Identity = {
      gateway_url: gatewayUrl,
      tenant_id: paired.tenant_id,
      agent_id: paired.agent.agent_id,
      epoch: paired.agent.epoch,
      broker_url: paired.broker_url,
      private_key: privateKey,
    };
    const another = before !== undefined && before.agent_id !== identity.agent_id;
    const movedJournal = another ? moveJournal(home.path, before.agent_id) : undefined;
    writeIdentity(home.path, identity);
    return { identity, vmUuids: paired.agent.vm_uuids, movedJournal };
  } finally {
    await home.close();
  }
}

/** What another agent promised and did is nothing that this one may report. */
function moveJournal(home: string, agentId: string): string | undefined {
  const path = join(home, "journal.db");
  if (!existsSync(path)) return undefined;
  const to = join(home, `journal-of-${agentId}-${Date.now()}.db`);
  renameSync(path, to);
  for (const suffix of ["-wal", "-shm"]) {
    if (existsSync(`${path}${suffix}`)) renameSync(`${path}${suffix}`, `${to}${suffix}`);
  }
  return to;
}
