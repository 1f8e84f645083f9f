import type { Service } from "@muster/contracts/define";
import type { MeshKey } from "@muster/contracts/mesh-keys";
import type { Principal } from "@muster/contracts/principal";
import type { TokenRevocation } from "@muster/contracts/token-revocations";
import { openLogger } from "@muster/telemetry/logger";
import { createMetrics } from "@muster/telemetry/metrics";
import type { Caller } from "../src/claims.ts";
import { openMeshVerifier } from "../src/mesh-verify.ts";
import type { MeshVerifierOptions } from "../src/mesh-verify.ts";
import { MeshTokens } from "../src/mesh-signer.ts";
import { startMs } from "./issuer.ts";

const principal = Object.freeze<Principal>({
  tenant_id: "acme",
  subject: "user:0190aaaa",
  roles: ["admin"],
  permissions: ["approvals.review.prod"],
});
export const caller: Caller = {
  principal,
  origin: () => ({ asOfMs: startMs - 1, via: ["api-key:k", "refresh-family:f"] }),
};
export const asked = { name: "vm-ops.vm.list.v1", owner: "vm-ops", timeoutMs: 10_000 } as const;
export const another = { ...asked, name: "vm-ops.vm.retire.v1" } as const;
export const byGateway = { name: asked.name, asker: "gateway" } as const;

/** Gateway and reliability, each with a key that vm-ops knows, and vm-ops's verifier. */
export function setupMesh(o: Partial<MeshVerifierOptions> = {}) {
  const clock = { nowMs: startMs };
  const now = () => clock.nowMs;
  const issuer = { keys: [] as MeshKey[], fetches: 0, failing: false, revocations: [] as TokenRevocation[] };
  const signerOf = (service: Service): MeshTokens => {
    const tokens = new MeshTokens(service, now);
    const { key, kid } = tokens;
    issuer.keys.push({ kty: "OKP", crv: "Ed25519", x: key.x, kid, alg: "EdDSA", use: "sig", service });
    return tokens;
  };
  const metrics = createMetrics({ service: "test" });
  const verifier = openMeshVerifier({
    service: "vm-ops",
    fetchKeys: async () => {
      issuer.fetches += 1;
      await Promise.resolve();
      if (issuer.failing) throw new Error("no answer");
      return { keys: [...issuer.keys] };
    },
    fetchRevocations: async () => {
      await Promise.resolve();
      return { items: [...issuer.revocations], next_cursor: null };
    },
    mode: "enforced",
    shadowTenantId: "shadow-tenant",
    metrics,
    logger: openLogger({ service: "test", level: "silent" }),
    now,
    ...o,
  });
  return { clock, now, issuer, metrics, verifier, signerOf, gateway: signerOf("gateway") };
}
export type MeshSetup = ReturnType<typeof setupMesh>;
