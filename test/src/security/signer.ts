import { createPrivateKey, generateKeyPairSync, sign, type KeyObject } from "node:crypto";
import { sealerOf } from "@muster/auth/signing/sealed";
import { uuidv7 } from "@muster/contracts/ids";
import { accessTokenAudience, accessTokenIssuer, accessTokenType } from "@muster/contracts/principal";
import { asAdmin } from "../model/facts.ts";

export interface Changes {
  readonly header?: Readonly<Record<string, unknown>>;
  readonly claims?: Readonly<Record<string, unknown>>;
}

/** Signs whatever it is told to, as the issuer writes tokens. */
export interface Signer {
  readonly kid: string;
  token(changes?: Changes): string;
}

const encoded = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString("base64url");

/** A claim or header that is `undefined` is left out. Valid for ten minutes unless told otherwise. */
export function signerWith(kid: string, key: KeyObject, whose: Readonly<Record<string, unknown>>): Signer {
  return {
    kid,
    token({ header = {}, claims = {} } = {}) {
      const now = Math.floor(Date.now() / 1_000);
      const standard = { iss: accessTokenIssuer, aud: accessTokenAudience, jti: uuidv7() };
      const times = { iat: now, nbf: now, exp: now + 600 };
      const text = [
        encoded({ alg: "EdDSA", kid, typ: accessTokenType, ...header }),
        encoded({ ...standard, ...times, permissions: [], ...whose, ...claims }),
      ].join(".");
      return `${text}.${sign(null, Buffer.from(text), key).toString("base64url")}`;
    },
  };
}

/** With the key that signs in the running system, opened by the key that seals it there. */
export async function signerOfSystem(
  adminUrl: string,
  sealingKey: Buffer,
  whose: Readonly<Record<string, unknown>>,
): Promise<Signer> {
  const [row] = await asAdmin(adminUrl, (admin) =>
    admin.query<{ kid: string; private_sealed: Buffer }>(
      "SELECT kid, private_sealed FROM auth.signing_keys WHERE status = 'active' AND kind = 'access'",
    ),
  );
  if (row === undefined) throw new Error("no signing key is active");
  const secret = sealerOf(sealingKey).open(row.private_sealed, row.kid);
  return signerWith(row.kid, createPrivateKey({ key: secret, format: "der", type: "pkcs8" }), whose);
}

/** With a key that nobody published, under this kid. */
export function stranger(kid: string, whose: Readonly<Record<string, unknown>>): Signer {
  return signerWith(kid, generateKeyPairSync("ed25519").privateKey, whose);
}
