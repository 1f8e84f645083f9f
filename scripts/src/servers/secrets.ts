import { z } from "zod";
import { randomSecret, readJson, writeJson } from "../system/files.ts";

const secretsSchema = z.record(z.string(), z.string().min(1));

export interface Secrets {
  /** The secret of that name; made on first use and kept from then on. */
  get(name: string): string;
  /** Whether this process made it just now. */
  isNew(name: string): boolean;
  set(name: string, value: string): void;
  find(name: string): string | undefined;
}

/** Generated passwords in one file that only its owner can read. Read anew each time: several parts keep theirs in it. */
export function openSecrets(path: string): Secrets {
  const made = new Set<string>();
  const kept = (): Record<string, string> => readJson(path, secretsSchema) ?? {};
  const set = (name: string, value: string): void => writeJson(path, { ...kept(), [name]: value });
  const get = (name: string): string => {
    const known = kept()[name];
    if (known !== undefined) return known;
    const fresh = randomSecret();
    made.add(name);
    set(name, fresh);
    return fresh;
  };
  return { get, set, isNew: (name) => made.has(name), find: (name) => kept()[name] };
}
