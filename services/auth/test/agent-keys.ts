import { createHash, randomUUID } from "node:crypto";
import { authRequests } from "@muster/contracts/auth";
import { uuidv7 } from "@muster/contracts/ids";
import { assertionAudience, pairingAudience } from "@muster/contracts/pairing";
import type { AgentPublicKey } from "@muster/contracts/pairing";
import { exportJWK, generateKeyPair, SignJWT } from "jose";
import type { CryptoKey } from "jose";
import type { Setup } from "./setup.ts";

export const sha256 = (text: string) => createHash("sha256").update(text).digest("hex");

export interface Key {
  readonly publicKey: AgentPublicKey;
  readonly privateKey: CryptoKey;
}

export async function newKey(): Promise<Key> {
  const { publicKey, privateKey } = await generateKeyPair("EdDSA", { crv: "Ed25519", extractable: true });
  const { x = "" } = await exportJWK(publicKey);
  return { publicKey: { kty: "OKP", crv: "Ed25519", x }, privateKey };
}

export function proofOf(
  code: string,
  { privateKey }: Key,
  change: { audience?: string; subject?: string } = {},
) {
  return new SignJWT({})
    .setProtectedHeader({ alg: "EdDSA" })
    .setAudience(change.audience ?? pairingAudience)
    .setSubject(change.subject ?? sha256(code))
    .setIssuedAt()
    .sign(privateKey);
}

export interface AssertionChange {
  readonly audience?: string;
  readonly jti?: string;
  readonly issuedAt?: number;
  readonly lifeSeconds?: number;
  readonly header?: Record<string, unknown>;
}

export function assertionOf(agentId: string, { privateKey }: Key, change: AssertionChange = {}) {
  const issuedAt = change.issuedAt ?? Math.floor(Date.now() / 1_000);
  return new SignJWT({})
    .setProtectedHeader({ alg: "EdDSA", ...change.header })
    .setIssuer(agentId)
    .setSubject(agentId)
    .setAudience(change.audience ?? assertionAudience)
    .setJti(change.jti ?? randomUUID())
    .setIssuedAt(issuedAt)
    .setExpirationTime(issuedAt + (change.lifeSeconds ?? 60))
    .sign(privateKey);
}

/** An agent of this owner's tenant that is paired by the key. */
export async function pairedWith(s: Setup, owner: string): Promise<{ id: string; key: Key }> {
  const key = await newKey();
  const pairing_code = { vm_uuids: [uuidv7()] };
  const { code } = await s.as(owner, authRequests.createPairingCode, { pairing_code });
  const proof = await proofOf(code ?? "", key);
  const asked = { code_sha256: sha256(code ?? ""), public_key: key.publicKey, proof };
  const { agent } = await s.as(undefined, authRequests.pairAgent, asked);
  return { id: agent.agent_id, key };
}
