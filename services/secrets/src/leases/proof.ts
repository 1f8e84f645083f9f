import { createPublicKey, verify } from "node:crypto";
import { resolveProofText } from "@muster/contracts/secret-reports";

/** Whether the holder of this key (Ed25519, in base64url) asks for just that. */
export function isProven(
  proof: string,
  o: { readonly publicKey: string; readonly asked: Parameters<typeof resolveProofText>[0] },
): boolean {
  try {
    const jwk = { kty: "OKP", crv: "Ed25519", x: o.publicKey };
    const key = createPublicKey({ key: jwk, format: "jwk" });
    return verify(null, Buffer.from(resolveProofText(o.asked)), key, Buffer.from(proof, "base64url"));
  } catch {
    return false;
  }
}
