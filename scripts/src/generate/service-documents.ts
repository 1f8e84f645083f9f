import { existsSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { commonSettings } from "@muster/service/known-settings";
import { z } from "zod";
import type { GeneratedFile } from "./mesh-documents.ts";

/** Programs and where each declares its settings. Services are programs, not libraries: they are loaded by path. */
const programs: readonly (readonly [name: string, compiled: string])[] = [
  ["gateway", "services/gateway/dist/src/config.js"],
  ["auth", "services/auth/dist/src/config.js"],
  ["vm-ops", "services/vm-ops/dist/src/config.js"],
  ["reliability", "services/reliability/dist/src/config.js"],
  ["agent", "agent/dist/src/settings.js"],
];

interface Described {
  readonly help: string;
  readonly secret: boolean;
  readonly default?: string | undefined;
}

const moduleSchema = z.object({
  settings: z.record(
    z.string(),
    z.object({ help: z.string(), secret: z.boolean(), default: z.string().optional() }),
  ),
});

const head = `# Every setting of every program: its meaning, and its default where it has one. Made by npm run generate.
# ./scripts/run sets what has none here by itself. A program prints what it uses, with --print-config.
`;

function section(title: string, settings: Readonly<Record<string, Described>>): string {
  const entries = Object.entries(settings).map(([name, { help, secret, default: value }]) => {
    const secrecy = secret ? " (secret)" : "";
    // A name without a value is one that must be set.
    return `# ${help}${secrecy}\n${value === undefined ? `${name}=` : `# ${name}=${value}`}\n`;
  });
  return [`# ── ${title} ──\n`, ...entries].join("\n");
}

/** The text of .env.example. A setting of several programs is explained where it comes first. */
export function renderEnvExample(
  common: Readonly<Record<string, Described>>,
  byProgram: readonly (readonly [string, Readonly<Record<string, Described>>])[],
): string {
  const seen = new Set(Object.keys(common));
  const sections = byProgram.map(([name, settings]) => {
    const fresh = Object.entries(settings).filter(([setting]) => !seen.has(setting));
    for (const [setting] of fresh) seen.add(setting);
    return section(name, Object.fromEntries(fresh));
  });
  return [head, section("every program", common), ...sections].join("\n");
}

/** .env.example, from the settings that the programs read. */
export async function serviceDocuments(repository: string): Promise<GeneratedFile[]> {
  const byProgram: [string, Readonly<Record<string, Described>>][] = [];
  for (const [name, compiled] of programs) {
    const path = join(repository, compiled);
    if (!existsSync(path)) throw new Error(`${compiled} is not there; run npm run build`);
    const loaded: unknown = await import(pathToFileURL(path).href);
    byProgram.push([name, moduleSchema.parse(loaded).settings]);
  }
  return [{ path: ".env.example", content: renderEnvExample(commonSettings, byProgram) }];
}
