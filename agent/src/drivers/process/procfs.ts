import { readFileSync, readdirSync } from "node:fs";

/** What /proc says of one process; `startTime` in clock ticks since boot tells two owners of one pid apart. */
export interface ProcessStat {
  readonly pid: number;
  readonly state: string;
  readonly parent: number;
  readonly group: number;
  readonly session: number;
  readonly startTime: string;
}

/** Undefined when there is no such process; a zombie counts as gone. */
export function readProcess(pid: number): ProcessStat | undefined {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, "latin1");
  } catch {
    return undefined;
  }
  // The name in brackets may itself hold spaces and brackets.
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  const [state = "", parent = "", group = "", session = ""] = fields;
  if (state === "Z" || state === "X") return undefined;
  const startTime = fields[19] ?? "";
  return { pid, state, parent: Number(parent), group: Number(group), session: Number(session), startTime };
}

export function isAlive(pid: number, startTime: string): boolean {
  return readProcess(pid)?.startTime === startTime;
}

/** Changes at every boot of this machine. */
export function bootId(): string {
  try {
    return readFileSync("/proc/sys/kernel/random/boot_id", "latin1").trim();
  } catch {
    return "unknown";
  }
}

function pids(): number[] {
  return readdirSync("/proc")
    .filter((name) => /^[0-9]+$/.test(name))
    .map(Number);
}

/**
 * Every process that belongs to one run: of the session or group `leader`, carrying `marker` in its environment,
 * or descended from one that does. Only environments that this user may read are seen.
 */
export function processesOf(leader: number | undefined, marker: string, except: readonly number[]): number[] {
  const all = new Map<number, ProcessStat>();
  for (const pid of pids()) {
    const stat = readProcess(pid);
    if (stat !== undefined) all.set(pid, stat);
  }
  const found = new Set<number>();
  for (const stat of all.values()) {
    const led =
      leader !== undefined && (stat.pid === leader || stat.session === leader || stat.group === leader);
    if (led || hasMarker(stat.pid, marker)) found.add(stat.pid);
  }
  for (let grew = true; grew;) {
    grew = false;
    for (const stat of all.values()) {
      if (found.has(stat.parent) && !found.has(stat.pid)) {
        found.add(stat.pid);
        grew = true;
      }
    }
  }
  return [...found].filter((pid) => !except.includes(pid));
}

function hasMarker(pid: number, marker: string): boolean {
  try {
    const environment = readFileSync(`/proc/${pid}/environ`, "latin1");
    return environment.startsWith(`${marker}\0`) || environment.includes(`\0${marker}\0`);
  } catch {
    return false;
  }
}

/** Is a process running whose arguments hold `text`? Finds a supervisor that has not yet written its pid. */
export function findByArgument(text: string): number | undefined {
  return pids().find((pid) => {
    if (pid === process.pid || readProcess(pid) === undefined) return false;
    try {
      return readFileSync(`/proc/${pid}/cmdline`, "latin1").split("\0").includes(text);
    } catch {
      return false;
    }
  });
}

/** A process that is already gone, or not ours to signal, is no error. */
export function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // Gone between the look and the signal.
  }
}
