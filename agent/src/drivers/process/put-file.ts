import { createHash, randomUUID } from "node:crypto";
import { mkdir, open, readFile, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { ActionParams } from "@muster/contracts/actions";
import { emptyResult, failed, type Outcome } from "../driver.ts";

export function sha256Of(bytes: Buffer): string {
  return createHash("sha256").update(bytes).digest("hex");
}

export function wroteOutcome(path: string, bytes: number, sha256: string): Outcome {
  const result = { ...emptyResult, data: { path, bytes, sha256 } };
  return { outcome: "succeeded", reason: "completed", effect: "applied", result };
}

/** Writes the file whole or not at all: a draft beside it, flushed, then renamed over it. */
export async function putFile(params: ActionParams<"file.put">): Promise<Outcome> {
  const bytes = Buffer.from(params.content_base64, "base64");
  const sha256 = sha256Of(bytes);
  if (params.sha256 !== undefined && params.sha256 !== sha256) {
    return failed("start_failed", "none", `the content's SHA-256 is ${sha256}, not ${params.sha256}`);
  }
  const folder = dirname(params.path);
  const draft = join(folder, `.muster-${randomUUID()}`);
  let parents: string | undefined;
  try {
    if (params.create_parents) parents = await mkdir(folder, { recursive: true });
    const handle = await open(draft, "wx", 0o600);
    try {
      await handle.writeFile(bytes);
      await handle.chmod(parseInt(params.mode, 8));
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(draft, params.path);
  } catch (error) {
    await rm(draft, { force: true }).catch(() => undefined);
    const effect = parents === undefined ? "none" : "partial";
    return failed("start_failed", effect, error instanceof Error ? error.message : String(error));
  }
  await syncFolder(folder);
  return wroteOutcome(params.path, bytes.length, sha256);
}

/** Some file systems cannot flush a folder; the file itself is whole either way. */
async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, "r").catch(() => undefined);
  await handle?.sync().catch(() => undefined);
  await handle?.close();
}

/** After a crash: does the file hold what was to be written? Renaming is atomic, so it is there whole or not at all. */
export async function holdsContent(path: string, sha256: string): Promise<number | undefined> {
  const bytes = await readFile(path).catch(() => undefined);
  return bytes !== undefined && sha256Of(bytes) === sha256 ? bytes.length : undefined;
}
