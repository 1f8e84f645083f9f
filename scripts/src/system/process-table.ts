import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { basename } from "node:path";

/** A process that cannot be confused with a later one of the same pid: the start time and the boot are part of it. */
export interface ProcessIdentity {
  readonly pid: number;
  readonly started: string;
}

export interface ProcessEntry extends ProcessIdentity {
  readonly parent: number;
  readonly name: string;
}

/** Every process we start carries this variable with its instance's marker, so that leftovers can be found. */
export const markerVariable = "MUSTER_INSTANCE";
/** Set for the length of one test run, and handed on to every process that a test starts. */
export const testRunVariable = "MUSTER_TEST_RUN";

function readOr(path: string): string | undefined {
  try {
    return readFileSync(path, "latin1");
  } catch {
    return undefined;
  }
}

const bootId = (readOr("/proc/sys/kernel/random/boot_id") ?? "unknown").slice(0, 8);

/** What the kernel says of a pid; undefined when it is gone or only waits to be reaped. */
export function processEntry(pid: number): ProcessEntry | undefined {
  const stat = readOr(`/proc/${pid}/stat`);
  if (stat === undefined) return undefined;
  const nameEnd = stat.lastIndexOf(")");
  const fields = stat.slice(nameEnd + 2).split(" ");
  if (fields[0] === "Z" || fields[0] === "X") return undefined;
  return {
    pid,
    parent: Number(fields[1]),
    name: stat.slice(stat.indexOf("(") + 1, nameEnd),
    started: `${bootId}:${fields[19] ?? ""}`,
  };
}

export function identityOf(pid: number): ProcessIdentity | undefined {
  const entry = processEntry(pid);
  return entry === undefined ? undefined : { pid: entry.pid, started: entry.started };
}

export function isAlive(identity: ProcessIdentity): boolean {
  return processEntry(identity.pid)?.started === identity.started;
}

export function allProcesses(): ProcessEntry[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map((name) => processEntry(Number(name)))
    .filter((entry) => entry !== undefined);
}

export function commandLineOf(pid: number): string {
  return (readOr(`/proc/${pid}/cmdline`) ?? "").replaceAll("\0", " ").trim();
}

/** A short name for messages: the program, not its path. */
export function programOf(pid: number): string {
  const first = (readOr(`/proc/${pid}/cmdline`) ?? "").split("\0")[0] ?? "";
  return basename(first.split(" ")[0] ?? "") || (processEntry(pid)?.name ?? "unknown");
}

function workingFolderOf(pid: number): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/cwd`);
  } catch {
    return undefined;
  }
}

function selfAndAncestors(): Set<number> {
  const found = new Set<number>();
  for (let pid = process.pid; pid > 0 && !found.has(pid); pid = processEntry(pid)?.parent ?? 0)
    found.add(pid);
  return found;
}

/** Processes whose first environment held `variable=value`; never this process or one of its ancestors. */
export function processesWith(variable: string, value: string): ProcessEntry[] {
  const wanted = `\0${variable}=${value}\0`;
  const excluded = selfAndAncestors();
  return allProcesses().filter((entry) => {
    if (excluded.has(entry.pid)) return false;
    const environment = readOr(`/proc/${entry.pid}/environ`);
    return environment !== undefined && `\0${environment}\0`.includes(wanted);
  });
}

/** PostgreSQL's workers write their title over their environment; they are known by their data folder. */
export function postgresProcessesIn(dataFolder: string): ProcessEntry[] {
  return allProcesses().filter(
    (entry) =>
      entry.name.startsWith("postgres") &&
      (workingFolderOf(entry.pid) === dataFolder || workingFolderOf(entry.pid) === `${dataFolder} (deleted)`),
  );
}

export function signal(identity: ProcessIdentity, name: NodeJS.Signals): void {
  if (!isAlive(identity)) return;
  try {
    process.kill(identity.pid, name);
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "ESRCH")) throw error;
  }
}
