import type { EventContract, PayloadOf } from "@muster/contracts/define";
import { signingKeysChanged } from "@muster/contracts/signing-keys";
import { tokensRevoked } from "@muster/contracts/token-revocations";
import type { Verifier } from "./verify.ts";

/** As a broker hears events: each while it is published, and when some may have been missed. */
interface Hears {
  hear<C extends EventContract>(
    contract: C,
    hearing: { heard(payload: PayloadOf<C>): void; missed(): void },
  ): Promise<{ close(): Promise<void> }>;
}

/** Tells a verifier what the issuer changes: its keys, and which tokens are void. Resolves when it hears. */
export async function hearIssuer(
  broker: Hears,
  verifier: Pick<Verifier, "keysChanged" | "tokensRevoked">,
): Promise<{ close(): Promise<void> }> {
  const keys = await broker.hear(signingKeysChanged, {
    heard: ({ kind, revoked }) => {
      if (kind === "access") verifier.keysChanged(revoked);
    },
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
