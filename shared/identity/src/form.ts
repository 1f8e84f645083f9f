/**
 * Whether a token is written in the one way that our issuer writes it: canonical base64url, UTF-8, and JSON as
 * `JSON.stringify` has it. So no member stands twice, and no two readers read two things from one signed text.
 */
export function isCanonical(token: string): boolean {
  const [header = "", payload = "", signature = ""] = token.split(".");
  return (
    [header, payload].every(isCanonicalJson) && encoded(Buffer.from(signature, "base64url")) === signature
  );
}

function isCanonicalJson(part: string): boolean {
  try {
    const value: unknown = JSON.parse(Buffer.from(part, "base64url").toString("utf8"));
    return encoded(Buffer.from(JSON.stringify(value))) === part;
  } catch {
    return false;
  }
}

const encoded = (bytes: Buffer): string => bytes.toString("base64url");
