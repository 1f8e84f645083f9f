import { chmodSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "@photostructure/sqlite";

/** Another process holds this home: two agents with one journal would start things twice. */
export class HomeInUse extends Error {
  override readonly name = "HomeInUse";
}

export interface Home {
  readonly path: string;
  close(): Promise<void>;
}

/** Makes the home (0700) and locks it for the life of this process; the lock goes when the process dies, however. */
export function openHome(path: string): Home {
  mkdirSync(path, { recursive: true, mode: 0o700 });
  chmodSync(path, 0o700);
  const lock = new DatabaseSync(join(path, "lock.db"));
  try {
    lock.exec("PRAGMA busy_timeout = 0; PRAGMA journal_mode = MEMORY; BEGIN EXCLUSIVE");
  } catch (error) {
    lock.close();
    throw new HomeInUse(`another agent uses ${path}; stop it, or give this one another MUSTER_AGENT_HOME`, {
      cause: error,
    });
  }
  let open = true;
  return {
    path,
    close: () => {
      if (open) lock.close();
      open = false;
      return Promise.resolve();
    },
  };
}
