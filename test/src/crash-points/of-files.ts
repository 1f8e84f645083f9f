import childProcess from "node:child_process";
import fs from "node:fs";
import { basename } from "node:path";
import type { Steps } from "./steps.ts";

type Call = (...args: unknown[]) => unknown;

const writing = {
  paths: ["mkdirSync", "renameSync", "rmSync", "unlinkSync", "writeFileSync"],
  descriptors: ["writeSync", "fsyncSync", "ftruncateSync"],
  promised: ["mkdir", "rename", "rm", "writeFile"],
} as const;

/** Writes below `folder`, named by call and file. */
export function countFiles(steps: Steps, folder: string): void {
  const names = new Map<unknown, string>();
  const named = (path: unknown): string | undefined =>
    typeof path === "string" && path.startsWith(`${folder}/`) ? nameOf(path, folder) : undefined;
  const around = (owner: object, call: string, nameFrom: (first: unknown) => string | undefined): void => {
    const original = Reflect.get(owner, call) as Call;
    Reflect.set(owner, call, (...args: unknown[]): unknown => {
      const name = nameFrom(args[0]);
      if (name === undefined) return Reflect.apply(original, owner, args);
      const begun = steps.begin(`file ${call.replace("Sync", "")} ${name}`);
      const answer = Reflect.apply(original, owner, args);
      if (answer instanceof Promise) return answer.finally(() => begun.done());
      begun.done();
      return answer;
    });
  };
  const openSync = Reflect.get(fs, "openSync") as Call;
  Reflect.set(fs, "openSync", (...args: unknown[]): unknown => {
    const name = named(args[0]);
    if (name === undefined) return Reflect.apply(openSync, fs, args);
    const makes = typeof args[1] === "string" && /^[wa]/.test(args[1]);
    const begun = makes ? steps.begin(`file open ${name}`) : undefined;
    const fd = Reflect.apply(openSync, fs, args);
    names.set(fd, name);
    begun?.done();
    return fd;
  });
  for (const call of writing.paths) around(fs, call, named);
  for (const call of writing.descriptors) around(fs, call, (fd) => names.get(fd));
  for (const call of writing.promised) around(fs.promises, call, named);
}

/** A file's own name; what holds an id is named by what it is. */
function nameOf(path: string, folder: string): string {
  const name = basename(path);
  if (/^[0-9a-f-]{36}\.[0-9]+$/.test(name)) return "run";
  return path.slice(folder.length + 1).includes("/") || !name.includes(".db") ? name : "database";
}

/** Children, named by program; `prepare` may change what a child gets. */
export function countChildren(steps: Steps, prepare: (args: unknown[]) => unknown[]): void {
  const spawn = Reflect.get(childProcess, "spawn") as Call;
  Reflect.set(childProcess, "spawn", (...args: unknown[]): unknown => {
    const begun = steps.begin(`spawn ${basename(String(args[0]))}`);
    const child = Reflect.apply(spawn, childProcess, prepare(args));
    begun.done();
    return child;
  });
}
