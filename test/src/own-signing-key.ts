import { generateKeyPairSync, sign } from "node:crypto";
import { uuidv7 } from "@muster/contracts/ids";
import { openAdmin } from "@muster/database/admin";
import { accessTokenAudience, accessTokenIssuer, accessTokenType } from "@muster/contracts/principal";

export interface SignedClaims {
  readonly tenant_id: string;
  readonly sub: string;
  readonly roles: readonly string[];
  readonly aud?: string;
  /** Seconds from now; before now for one that has expired. */
  readonly lifeSeconds?: number;
}

/** A key of the test's own among the system's published ones: it signs tokens as auth never would. */
export async function addSigningKey(adminDatabaseUrl: string): Promise<(claims: SignedClaims) => string> {
  const { publicKey, privateKey } = generateKeyPairSync("ed25519");
  const kid = uuidv7();
  const jwk = { ...publicKey.export({ format: "jwk" }), kid, alg: "EdDSA", use: "sig" };
  const admin = await openAdmin(adminDatabaseUrl);
  await admin.query(
    `INSERT INTO auth.signing_keys
       (kid, alg, public_jwk, private_sealed, sealed_with, status, activated_at, retired_at, verify_until)
     VALUES ($1, 'EdDSA', $2, $3, 'nobody', 'retired', now(), now(), now() + interval '1 hour')`,
    [kid, JSON.stringify(jwk), Buffer.alloc(64)],
  );
  await admin.close();
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
  return ({ aud = accessTokenAudience, lifeSeconds = 600, ...claims }) => {
    const now = Math.floor(Date.now() / 1_000);
    const times = { iat: Math.min(now, now + lifeSeconds) - 60, exp: now + lifeSeconds };
    const payload = { iss: accessTokenIssuer, aud, ...claims, permissions: [], jti: uuidv7(), ...times };
    const text = `${part({ alg: "EdDSA", kid, typ: accessTokenType })}.${part(payload)}`;
    return `${text}.${sign(null, Buffer.from(text), privateKey).toString("base64url")}`;
  };
}
