import type { VaultKind } from "@muster/contracts/secrets";
import { once } from "@muster/service/closing";
import { VaultError } from "./vault.ts";
import type { Vault } from "./vault.ts";

/** A vault that is opened when it is first asked, and again as long as that fails. */
export function lateVault(kind: VaultKind, open: () => Promise<Vault>): Vault {
  let opened: Vault | undefined;
  let opening: Promise<Vault> | undefined;
  let closed = false;

  async function vault(): Promise<Vault> {
    if (closed) throw new VaultError("unavailable", "it is closed");
    if (opened !== undefined) return opened;
    opening ??= open()
      .then((one) => (opened = one))
      .finally(() => {
        opening = undefined;
      });
    return await opening;
  }
  return {
    kind,
    check: async (signal) => (await vault()).check(signal),
    write: async (place, material, signal) => (await vault()).write(place, material, signal),
    read: async (place, signal) => (await vault()).read(place, signal),
    destroy: async (place, signal) => (await vault()).destroy(place, signal),
    close: once(async () => {
      closed = true;
      await opening?.catch(() => undefined);
      await opened?.close();
    }),
  };
}
