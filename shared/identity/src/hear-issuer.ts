import type { EventContract, PayloadOf } from "@muster/contracts/define";
import { meshKeysChanged } from "@muster/contracts/mesh-keys";
import { tokensRevoked } from "@muster/contracts/token-revocations";
import type { MeshVerifier } from "./mesh-verify.ts";

/** As a broker hears events: each while it is published, and when some may have been missed. */
interface Hears {
  hear<C extends EventContract>(
    contract: C,
    hearing: { heard(payload: PayloadOf<C>): void; missed(): void },
  ): Promise<{ close(): Promise<void> }>;
}

/** Tells a verifier on the mesh what auth says: which keys there are, and which tokens are void. Resolves when it hears. */
export async function hearIssuer(
  broker: Hears,
  verifier: Pick<MeshVerifier, "keysChanged" | "tokensRevoked">,
): Promise<{ close(): Promise<void> }> {
  const keys = await broker.hear(meshKeysChanged, {
    heard: () => verifier.keysChanged(),
    missed: () => verifier.keysChanged(),
  });
  const revocations = await broker.hear(tokensRevoked, {
    heard: (revocation) => verifier.tokensRevoked(revocation),
    missed: () => verifier.tokensRevoked(),
  });
  return {
    async close() {
      await keys.close();
      await revocations.close();
    },
  };
}
