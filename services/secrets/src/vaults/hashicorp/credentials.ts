import { open } from "node:fs/promises";
import { VaultError } from "../vault.ts";

/** How we come by a token: it is given, or given for a login. */
export type Credentials =
  | { readonly kind: "token"; token(): Promise<string> }
  | {
      readonly kind: "login";
      /** Below /v1. */
      readonly path: string;
      body(): Promise<Readonly<Record<string, string>>>;
    };

export const givenToken = (token: () => Promise<string>): Credentials => ({ kind: "token", token });

export const appRole = (o: {
  mount: string;
  roleId: string;
  secretId: () => Promise<string>;
}): Credentials => ({
  kind: "login",
  path: `/auth/${o.mount}/login`,
  body: async () => ({ role_id: o.roleId, secret_id: await o.secretId() }),
});

/** The service account's token is short-lived: it is read for each login. */
export const kubernetes = (o: { mount: string; role: string; jwt: () => Promise<string> }): Credentials => ({
  kind: "login",
  path: `/auth/${o.mount}/login`,
  body: async () => ({ role: o.role, jwt: await o.jwt() }),
});

const fileBytesMax = 16 * 1024;

/** One line of a file, read anew each time; whatever goes wrong, only the path is told. */
export function lineOf(path: string): () => Promise<string> {
  return async () => {
    const text = await readStart(path).catch(() => {
      throw new VaultError("refused", `the credential in ${path} cannot be read`);
    });
    const line = text.trim();
    if (!/^[\x21-\x7e]+$/.test(line))
      throw new VaultError("refused", `${path} has no credential in one line`);
    return line;
  };
}

async function readStart(path: string): Promise<string> {
  const file = await open(path, "r");
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(fileBytesMax), 0, fileBytesMax, 0);
    return buffer.toString("utf8", 0, bytesRead);
  } finally {
    await file.close();
  }
}
