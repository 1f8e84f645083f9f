import { MusterError } from "@muster/contracts/errors";
import { sealedFor, secretMaterial, secretsRequests } from "@muster/contracts/secrets";
import type { Material } from "@muster/contracts/secrets";
import { makeBoxKey, open, seal } from "@muster/sealing/box";
import type { BoxKey } from "@muster/sealing/box";
import type { Ask, Asked } from "../asking.ts";

export type { BoxKey } from "@muster/sealing/box";

/** Material crosses the mesh in boxes that only the secrets service opens, or only the gateway that asked. */
export interface Sealing {
  /** Asks with the sealed material; once more by a fresh key where the service does not know the one that was kept. */
  sealing<T>(material: Material, from: Asked, ask: (sealed: string) => Promise<T>): Promise<T>;
  /** For one answer; nothing else is ever sealed to it. */
  newRecipient(): BoxKey;
  /** Throws CONTRACT_VIOLATION for what does not open, or holds no material. */
  opened(
    box: { readonly version: number; readonly sealed: string },
    o: { readonly key: BoxKey; readonly tenantId: string; readonly secretId: string },
  ): Promise<Material>;
}

export function openSealing({ ask }: { readonly ask: Ask }): Sealing {
  let kept: string | undefined;
  const fetched = async (from: Asked): Promise<string> => {
    kept = (await ask(secretsRequests.getSealingKey, {}, from)).x;
    return kept;
  };
  return {
    async sealing(material, from, asking) {
      const tenantId = from.principal?.tenant_id;
      if (tenantId === undefined) throw new MusterError("MISSING_BEARER_TOKEN");
      const plain = Buffer.from(JSON.stringify(material));
      const sealedBy = (x: string) => seal(plain, { x, about: sealedFor.write(tenantId) });
      try {
        return await asking(await sealedBy(kept ?? (await fetched(from))));
      } catch (error) {
        // What was refused for its key had no effect.
        if (!(error instanceof MusterError) || error.code !== "SEALING_KEY_UNKNOWN") throw error;
      }
      return await asking(await sealedBy(await fetched(from)));
    },
    newRecipient: makeBoxKey,
    async opened({ version, sealed }, { key, tenantId, secretId }) {
      try {
        const plain = await open(sealed, { key, about: sealedFor.read(tenantId, secretId, version) });
        return secretMaterial.shape.material.parse(JSON.parse(Buffer.from(plain).toString("utf8")));
      } catch {
        // Without the cause: an error of a parser may quote what it read.
        throw new MusterError("CONTRACT_VIOLATION", "the secrets service's answer does not open");
      }
    },
  };
}
