import * as fs from "node:fs";
import { join } from "node:path";
import { files } from "./run-folder.ts";

/*
 * Secrets that reach a program as files: in a folder of the run's own, on a file system in memory. Made by the supervisor and removed
 * by it at the end of the run; by the agent where the supervisor died. Where they are is written into the run folder before a
 * value is in any of them. No dependencies: it runs inside the supervisor.
 */

export interface SecretFile {
  /** A name in the folder, or an absolute path. */
  readonly path: string;
  readonly value: string;
}

/** Nothing was started; the text says where and why, and has no value. */
export class NoPlace extends Error {
  override readonly name = "NoPlace";
}

/** Of tmpfs and ramfs, as statfs(2) has them. */
const inMemory: readonly number[] = [0x01021994, 0x858458f6];

interface Made {
  readonly path: string;
  /** Tells it from what somebody else puts in its place later. */
  readonly inode: number;
}

interface Whereabouts {
  readonly folder: string;
  readonly files: readonly Made[];
}

/** By default, of this user: what is in memory is nobody else's. */
export function defaultSecretsDir(): string {
  return `/dev/shm/muster-${process.getuid?.() ?? 0}`;
}

/** The run's own folder and the files in it, all or nothing. Throws NoPlace. */
export function makeSecretFiles(runFolder: string, folder: string, wanted: readonly SecretFile[]): void {
  if (wanted.length === 0) return;
  ensureOwn(join(folder, ".."));
  doing(`the folder ${folder}`, () => fs.mkdirSync(folder, { mode: 0o700 }));
  const made: Made[] = [];
  const open: number[] = [];
  try {
    for (const { path } of wanted) {
      const full = path.startsWith("/") ? path : join(folder, path);
      const fd = doing(`the file ${full}`, () => fs.openSync(full, "wx", 0o600));
      open.push(fd);
      made.push({ path: full, inode: fs.fstatSync(fd).ino });
      if (!isInMemory(`/proc/self/fd/${fd}`)) throw new NoPlace(`${full} is not on a file system in memory`);
      fs.fchmodSync(fd, 0o600);
    }
    const whereabouts: Whereabouts = { folder, files: made };
    fs.writeFileSync(join(runFolder, files.secrets), JSON.stringify(whereabouts), { mode: 0o600 });
    wanted.forEach(({ path, value }, at) => {
      doing(`the file ${path}`, () => fs.writeFileSync(open[at] ?? -1, value));
    });
  } catch (error) {
    remove({ folder, files: made });
    throw error;
  } finally {
    for (const fd of open) fs.closeSync(fd);
  }
}

function doing<T>(what: string, work: () => T): T {
  try {
    return work();
  } catch (cause) {
    const code = cause instanceof Error && "code" in cause ? String(cause.code) : "unknown";
    const why = code === "EEXIST" ? "is there already" : `cannot be made (${code})`;
    throw new NoPlace(`${what} ${why}`, { cause });
  }
}

/** A folder that is there must be ours alone: others may write where ours is by default. */
function ensureOwn(base: string): void {
  try {
    fs.mkdirSync(base, { mode: 0o700 });
  } catch (cause) {
    const there = fs.lstatSync(base, { throwIfNoEntry: false });
    if (there === undefined) throw new NoPlace(`the folder ${base} cannot be made`, { cause });
    const isOurs = there.isDirectory() && there.uid === process.getuid?.() && (there.mode & 0o077) === 0;
    if (!isOurs)
      throw new NoPlace(`${base} must be a folder of the agent's user alone, mode 0700`, { cause });
  }
  if (!isInMemory(base)) throw new NoPlace(`${base} is not on a file system in memory (tmpfs)`);
}

const isInMemory = (path: string): boolean => inMemory.includes(fs.statfsSync(path).type);

/** Whether any were made for a run. */
export const hasSecretFiles = (runFolder: string): boolean => fs.existsSync(join(runFolder, files.secrets));

/** Removes what was made for a run, if it is still there; again is harmless. Never throws: what could not be removed is left. */
export function removeSecretFiles(runFolder: string): void {
  const whereabouts = read(join(runFolder, files.secrets));
  if (whereabouts !== undefined) remove(whereabouts);
}

function remove({ folder, files: made }: Whereabouts): void {
  for (const { path, inode } of made) {
    quietly(() => {
      if (fs.lstatSync(path, { throwIfNoEntry: false })?.ino === inode) fs.rmSync(path, { force: true });
    });
  }
  // A program may have taken its own rights away.
  quietly(() => fs.chmodSync(folder, 0o700));
  quietly(() => fs.rmSync(folder, { recursive: true, force: true }));
}

function quietly(work: () => void): void {
  try {
    work();
  } catch {
    // The next start of the agent tries again.
  }
}

function read(path: string): Whereabouts | undefined {
  let parsed: unknown;
  try {
    parsed = JSON.parse(fs.readFileSync(path, "utf8"));
  } catch {
    return undefined;
  }
  if (typeof parsed !== "object" || parsed === null || !("folder" in parsed) || !("files" in parsed))
    return undefined;
  const { folder, files: listed } = parsed;
  if (typeof folder !== "string" || !Array.isArray(listed)) return undefined;
  const made = listed.filter((one: unknown): one is Made => {
    if (typeof one !== "object" || one === null || !("path" in one) || !("inode" in one)) return false;
    return typeof one.path === "string" && typeof one.inode === "number";
  });
  return { folder, files: made };
}
