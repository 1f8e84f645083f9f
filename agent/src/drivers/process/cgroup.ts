import { mkdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { signal } from "./procfs.ts";

/**
 * A control group of one run, where the agent's own cgroup (version 2) may be divided (root, or `Delegate=yes`):
 * nothing that the program starts can leave it. Elsewhere every method does nothing and the marker decides alone.
 */
export class CgroupPen {
  readonly #path: string | undefined;
  readonly #home: string;
  #shared = false;

  private constructor(path: string | undefined, home: string) {
    this.#path = path;
    this.#home = home;
  }

  static open(handle: string): CgroupPen {
    try {
      const own = /^0::(.*)$/m.exec(readFileSync("/proc/self/cgroup", "utf8"))?.[1];
      const mount = /^\S+ (\S+) cgroup2 /m.exec(readFileSync("/proc/self/mounts", "utf8"))?.[1];
      // The root group of the whole machine is nobody's to divide.
      if (own === undefined || mount === undefined || own === "/") return new CgroupPen(undefined, "");
      const path = join(mount, own, `muster-${handle}`);
      mkdirSync(path);
      return new CgroupPen(path, join(mount, own));
    } catch {
      return new CgroupPen(undefined, "");
    }
  }

  /** Starts a child inside: it inherits the group that this process is in at that moment. */
  inside<T>(start: () => T): T {
    if (this.#path === undefined) return start();
    const entered = join(this.#path, "cgroup.procs");
    try {
      writeFileSync(entered, "0");
    } catch {
      return start();
    }
    try {
      return start();
    } finally {
      this.#leave();
    }
  }

  /** A supervisor that cannot leave must not kill the group whole, itself included. */
  #leave(): void {
    try {
      writeFileSync(join(this.#home, "cgroup.procs"), "0");
    } catch {
      this.#shared = true;
    }
  }

  members(): number[] {
    if (this.#path === undefined) return [];
    try {
      return readFileSync(join(this.#path, "cgroup.procs"), "latin1").split("\n").filter(Boolean).map(Number);
    } catch {
      return [];
    }
  }

  kill(): void {
    if (this.#path === undefined || this.#shared) return;
    try {
      writeFileSync(join(this.#path, "cgroup.kill"), "1");
    } catch {
      for (const pid of this.members()) signal(pid, "SIGKILL");
    }
  }

  /** A group that still has members stays. */
  remove(): void {
    if (this.#path === undefined) return;
    try {
      rmdirSync(this.#path);
    } catch {
      // Left for what lives on in it.
    }
  }
}
