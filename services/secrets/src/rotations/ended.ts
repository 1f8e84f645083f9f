import type { Tx } from "@muster/database/database";
import { settle } from "./settle.ts";
import { findByCommands, markEnded } from "./store.ts";
import type { CommandEnd } from "./store.ts";

/** Settles the rotations that these ends are of; true when there is one. Under the system role. */
export async function endFollowUps(tx: Tx, ends: readonly CommandEnd[]): Promise<boolean> {
  const touched = await findByCommands(
    tx,
    ends.map(({ commandId }) => commandId),
  );
  const rotations = new Map(touched.map((row) => [row.rotation_id, row]));
  for (const { tenant_id: tenantId, secret_id: secretId, rotation_id: rotationId } of rotations.values()) {
    const commands = new Set(
      touched.filter((row) => row.rotation_id === rotationId).map((row) => row.command_id),
    );
    await settle(tx, { tenantId, secretId, rotationId }, async () => {
      for (const one of ends)
        if (one.tenantId === tenantId && commands.has(one.commandId)) await markEnded(tx, one);
    });
  }
  return touched.length > 0;
}
