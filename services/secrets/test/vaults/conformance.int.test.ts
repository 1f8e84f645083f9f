import { randomBytes } from "node:crypto";
import { setupDatabase } from "@muster/testing/database";
import { describeVault } from "./conformance.ts";
import type { VaultHouse } from "./conformance.ts";
import { migrations, openVaultOf } from "../setup.ts";
import { hashicorpHouse, supabaseHouse } from "./houses.ts";

/** Every vault that there is; one more is one more line. */
const vaults: Readonly<Record<string, () => Promise<VaultHouse>>> = {
  hashicorp: hashicorpHouse,
  supabase: supabaseHouse,
  sealed: sealedHouse,
};

async function sealedHouse(): Promise<VaultHouse> {
  const database = await setupDatabase({ migrations });
  const kek = randomBytes(32);
  return { open: () => openVaultOf({ database, kek }), close: () => database.destroy() };
}

for (const [name, openHouse] of Object.entries(vaults)) describeVault(name, openHouse);
