import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { SettingsError } from "@muster/service/settings";
import type { Config } from "../config.ts";
import { keyFromText, keyRule, keysOf } from "./keys.ts";
import type { Keys } from "./keys.ts";

const commandTimeoutMs = 10_000;
const outputBytesMax = 4_096;

const names = {
  key: "MUSTER_SECRETS_KEY_ENCRYPTION_KEY",
  file: "MUSTER_SECRETS_KEY_ENCRYPTION_KEY_FILE",
  command: "MUSTER_SECRETS_KEY_ENCRYPTION_KEY_COMMAND",
  previous: "MUSTER_SECRETS_KEY_ENCRYPTION_KEY_PREVIOUS",
  next: "MUSTER_SECRETS_KEY_ENCRYPTION_KEY_NEXT",
} as const;
export type KeyConfig = Pick<Config, (typeof names)[keyof typeof names]>;

/** The keys that the settings say or point at. Throws SettingsError that names the setting, never a key. */
export async function readKeys(config: KeyConfig): Promise<Keys> {
  const given = [names.key, names.file, names.command].filter((name) => config[name] !== undefined);
  const [source, ...more] = given;
  if (source === undefined || more.length > 0) {
    const rule = `exactly one of ${names.key}, …_FILE and …_COMMAND must be set`;
    const value = given.length === 0 ? undefined : given.join(", ");
    throw new SettingsError([{ name: names.key, rule, value }]);
  }
  const current = await currentOf(config);
  const others = [names.previous, names.next].map((name) => ({ name, key: config[name] }));
  for (const [at, { name, key }] of others.entries()) {
    const before = [current, ...others.slice(0, at).map((other) => other.key)];
    if (key === undefined || !before.some((other) => other?.equals(key) === true)) continue;
    const rule = `must be another key than ${source}; leave it out when the change is over`;
    throw new SettingsError([{ name, rule, value: "the same" }]);
  }
  return keysOf(current, { previous: config[names.previous], next: config[names.next] });
}

async function currentOf(config: KeyConfig): Promise<Buffer> {
  const given = config[names.key];
  if (given !== undefined) return given;
  const file = config[names.file];
  if (file !== undefined) return decoded(names.file, await textOfFile(file));
  return decoded(names.command, await outputOf(config[names.command] ?? ""));
}

async function textOfFile(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    const rule = `must name a file that can be read (${codeOf(error)})`;
    throw new SettingsError([{ name: names.file, rule, value: path }]);
  }
}

/** No shell reads it: words with spaces between. What it prints goes nowhere else, not even into an error. */
function outputOf(command: string): Promise<string> {
  const [program = "", ...args] = command.split(" ").filter((word) => word !== "");
  const bounds = { timeout: commandTimeoutMs, maxBuffer: outputBytesMax, killSignal: "SIGKILL" } as const;
  return new Promise((resolve, reject) => {
    execFile(program, args, { ...bounds, shell: false, windowsHide: true }, (error, stdout) => {
      if (error === null) return resolve(stdout);
      const ended = error.killed === true ? "took too long or said too much" : `ended with ${codeOf(error)}`;
      const rule = `must print the key within ${commandTimeoutMs} ms and ${outputBytesMax} bytes; it ${ended}`;
      reject(new SettingsError([{ name: names.command, rule, value: program }]));
    }).stdin?.end();
  });
}

function decoded(name: string, text: string): Buffer {
  const key = keyFromText(text.trim());
  if (key !== undefined) return key;
  throw new SettingsError([{ name, rule: `must give ${keyRule}`, value: "something else" }]);
}

const codeOf = (error: unknown): string =>
  error instanceof Error && "code" in error ? String(error.code) : "a fault";
