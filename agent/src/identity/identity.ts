import { createPrivateKey, generateKeyPairSync, type KeyObject } from "node:crypto";
import {
  closeSync,
  existsSync,
  fsyncSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import type { AgentPublicKey } from "@muster/contracts/pairing";
import { agentEpoch } from "@muster/contracts/pairing";
import { tenantId, uuid } from "@muster/contracts/ids";
import { z } from "zod";

const pem = z.string().startsWith("-----BEGIN PRIVATE KEY-----").max(512);
const identityFile = z.object({
  gateway_url: z.url({ protocol: /^https?$/ }).max(512),
  tenant_id: tenantId,
  agent_id: uuid,
  epoch: agentEpoch,
  /** Where the broker is, as the gateway said; null where the agent's settings must say it. */
  broker_url: z.string().max(512).nullable(),
  private_key: pem,
});
/** What a pairing left on this host: who the agent is, and the key that proves it. */
export type Identity = z.output<typeof identityFile>;

/** The key of a pairing that was begun: the same code is sent again with the same key, since the answer may have been lost. */
const begunFile = z.object({ code_sha256: z.string(), private_key: pem });

/** The file is there and cannot be read as one of ours. */
export class IdentityDamaged extends Error {
  override readonly name = "IdentityDamaged";
}

const identityPath = (home: string): string => join(home, "identity.json");
const begunPath = (home: string): string => join(home, "pairing.json");

/** Undefined where the agent was never paired. Throws IdentityDamaged. */
export function readIdentity(home: string): Identity | undefined {
  return read(identityPath(home), identityFile);
}

/** On disk before it returns, mode 0600, whole or not at all; what was begun is over. */
export function writeIdentity(home: string, identity: Identity): void {
  write(home, identityPath(home), identity);
  rmSync(begunPath(home), { force: true });
}

/** The private key for this code: a new one, or that of an earlier try. It is on disk before it is used. */
export function keyFor(home: string, codeSha256: string): string {
  const begun = read(begunPath(home), begunFile);
  if (begun?.code_sha256 === codeSha256) return begun.private_key;
  const key = generateKeyPairSync("ed25519").privateKey.export({ format: "pem", type: "pkcs8" }).toString();
  write(home, begunPath(home), { code_sha256: codeSha256, private_key: key });
  return key;
}

export const privateKeyOf = (text: string): KeyObject => createPrivateKey(text);

/** Its public half (RFC 8037). */
export function publicKeyOf(privateKey: KeyObject): AgentPublicKey {
  const { x = "" } = privateKey.export({ format: "jwk" });
  return { kty: "OKP", crv: "Ed25519", x };
}

function read<S extends z.ZodType>(path: string, schema: S): z.output<S> | undefined {
  if (!existsSync(path)) return undefined;
  try {
    return schema.parse(JSON.parse(readFileSync(path, "utf8")));
  } catch (cause) {
    throw new IdentityDamaged(`${path} is damaged; restore it, or move it away and pair the agent again`, {
      cause,
    });
  }
}

function write(home: string, path: string, content: unknown): void {
  const temporary = `${path}.new`;
  rmSync(temporary, { force: true });
  const file = openSync(temporary, "wx", 0o600);
  try {
    writeSync(file, `${JSON.stringify(content, null, 2)}\n`);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  renameSync(temporary, path);
  const folder = openSync(home, "r");
  try {
    fsyncSync(folder);
  } finally {
    closeSync(folder);
  }
}
