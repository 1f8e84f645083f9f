import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";

/** The files of a checkout that rules look at: path relative to the root → text. */
export type Repository = ReadonlyMap<string, string>;

const ignoredFolders = new Set(["node_modules", "dist", ".git", ".muster", "coverage", "golden"]);
const textFile = /\.(ts|mts|mjs|json|md|sql|yml|yaml|sh|conf)$|^[^.]+$/;

function visit(root: string, folder: string, found: Map<string, string>): void {
  for (const entry of readdirSync(join(root, folder), { withFileTypes: true })) {
    const path = folder === "" ? entry.name : `${folder}/${entry.name}`;
    if (entry.isDirectory() && !ignoredFolders.has(entry.name)) visit(root, path, found);
    if (entry.isFile() && textFile.test(entry.name)) found.set(path, readFileSync(join(root, path), "utf8"));
  }
}

export function readRepository(root: string): Repository {
  const found = new Map<string, string>();
  visit(root, "", found);
  return found;
}

const packageSchema = z.object({
  name: z.string(),
  dependencies: z.record(z.string(), z.string()).default({}),
  devDependencies: z.record(z.string(), z.string()).default({}),
});

export interface Package {
  readonly folder: string;
  readonly name: string;
  readonly dependencies: ReadonlySet<string>;
  /** What its tests may import besides. */
  readonly devDependencies: ReadonlySet<string>;
}

export function packageAt(repository: Repository, path: string): z.output<typeof packageSchema> {
  return packageSchema.parse(JSON.parse(repository.get(path) ?? "{}"));
}

/** Packages of the workspace; the root is not one. */
export function packagesOf(repository: Repository): Package[] {
  return [...repository.keys()]
    .filter((path) => path.endsWith("/package.json"))
    .map((path) => {
      const { name, dependencies, devDependencies } = packageAt(repository, path);
      return {
        folder: path.slice(0, -"/package.json".length),
        name,
        dependencies: new Set(Object.keys(dependencies)),
        devDependencies: new Set(Object.keys(devDependencies)),
      };
    });
}

export function isTestCode(path: string): boolean {
  return /\.test\.ts$/.test(path) || /(^|\/)test\//.test(path);
}

/** What a source imports: static, dynamic and type imports with a literal. */
export function importsOf(text: string): string[] {
  const shapes = [
    /^\s*(?:import|export)\b[^"';]*?\bfrom\s+"([^"]+)"/gm,
    /^\s*import\s+"([^"]+)"/gm,
    /\bimport\(\s*"([^"]+)"\s*\)/g,
  ];
  return shapes.flatMap((shape) => [...text.matchAll(shape)].map((match) => match[1] ?? ""));
}
