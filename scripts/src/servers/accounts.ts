import { chmodSync, existsSync, mkdirSync, readFileSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { z } from "zod";
import type { Account } from "../system/child.ts";
import { markerOf, readJson, writeJson } from "../system/files.ts";

export interface NamedAccount extends Account {
  readonly name: string;
}

export function accountNamed(
  name: string,
  passwd = readFileSync("/etc/passwd", "utf8"),
): NamedAccount | undefined {
  const fields = passwd
    .split("\n")
    .map((line) => line.split(":"))
    .find(([first]) => first === name);
  const [, , uid, gid] = fields ?? [];
  if (uid === undefined || gid === undefined) return undefined;
  return { name, uid: Number(uid), gid: Number(gid) };
}

/** PostgreSQL refuses to run as root: there it runs as `postgres`, or as `nobody` where that user does not exist. */
export function databaseAccount(): NamedAccount | undefined {
  if (process.getuid?.() !== 0) return undefined;
  const account = accountNamed("postgres") ?? accountNamed("nobody");
  if (account === undefined) {
    throw new Error(
      "PostgreSQL cannot run as root and this machine has neither a user postgres nor nobody; run as an ordinary user",
    );
  }
  return account;
}

export function mayTraverse(folder: string, account: Account): boolean {
  for (let at = folder; ; at = dirname(at)) {
    const { mode, uid, gid } = statSync(at);
    const bit = uid === account.uid ? 0o100 : gid === account.gid ? 0o010 : 0o001;
    if ((mode & bit) === 0) return false;
    if (dirname(at) === at) return true;
  }
}

const placeSchema = z.object({ place: z.string().startsWith("/") });

/** Where this folder's database keeps its data; undefined before the first start. */
export function placeOf(folder: string): string | undefined {
  return readJson(join(folder, "place.json"), placeSchema)?.place;
}

/** The place of the data, kept once chosen, as long as its user can still reach it. */
export function placeFor(folder: string, account: Account | undefined): string {
  const kept = placeOf(folder);
  if (kept !== undefined && existsSync(kept) && (account === undefined || mayTraverse(kept, account)))
    return kept;
  const place = reachableFolder(folder, account);
  writeJson(join(folder, "place.json"), { place });
  return place;
}

/** A folder that `account` can reach: inside `folder`, or, where a parent is closed to it, a place of its own. */
function reachableFolder(folder: string, account: Account | undefined): string {
  if (account === undefined || mayTraverse(folder, account)) return folder;
  const name = `muster-${markerOf(folder)}`;
  for (const base of ["/var/lib", tmpdir()]) {
    try {
      const place = join(base, name);
      mkdirSync(place, { recursive: true, mode: 0o711 });
      chmodSync(place, 0o711);
      if (mayTraverse(place, account)) return place;
    } catch {
      continue;
    }
  }
  throw new Error(
    `no place for PostgreSQL's data: user ${account.uid} can enter neither ${folder} nor /var/lib nor ${tmpdir()}`,
  );
}
