import { posix } from "node:path";
import { z } from "zod";
import { importsOf, isTestCode, packageAt, packagesOf } from "./repository.ts";
import type { Package, Repository } from "./repository.ts";

/** One fault of the checkout, in words that say what to do. */
export type Fault = string;
export type Rule = (repository: Repository) => Fault[];

const sources = (repository: Repository): [string, string][] =>
  [...repository].filter(([path]) => path.endsWith(".ts") && !path.endsWith(".d.ts"));

/** Programs: started by name, imported by nobody. */
const entryNames = new Set(["main.ts", "migrate.ts", "bootstrap.ts", "supervisor.ts"]);

function isEntry(path: string): boolean {
  return entryNames.has(posix.basename(path)) || path.endsWith(".test.ts");
}

function ownerOf(path: string, packages: readonly Package[]): Package | undefined {
  return packages.find(({ folder }) => path.startsWith(`${folder}/`));
}

/** `@muster/x/y` → the file; a relative import → the file; else undefined. */
function targetOf(specifier: string, from: string, packages: readonly Package[]): string | undefined {
  if (specifier.startsWith(".")) return posix.join(posix.dirname(from), specifier);
  const owner = packages.find(({ name }) => specifier.startsWith(`${name}/`));
  return owner === undefined ? undefined : `${owner.folder}/src/${specifier.slice(owner.name.length + 1)}.ts`;
}

/** A source that nobody imports, names or starts. */
export const noDeadFiles: Rule = (repository) => {
  const packages = packagesOf(repository);
  const all = sources(repository);
  const reached = new Set(
    all.flatMap(([path, text]) => importsOf(text).map((specifier) => targetOf(specifier, path, packages))),
  );
  // A program that another one starts is named by its compiled file, by a test perhaps without the ending.
  const named = new Set(
    all.flatMap(([path, text]) => {
      const shape = isTestCode(path)
        ? /["'`\/]([A-Za-z0-9_-]+)(?:\.js)?["'`]/g
        : /([A-Za-z0-9_-]+)\.js["'`]/g;
      return [...text.matchAll(shape)].map((match) => match[1] ?? "");
    }),
  );
  return all
    .map(([path]) => path)
    .filter((path) => !isEntry(path) && !reached.has(path) && !named.has(posix.basename(path, ".ts")))
    .map((path) => `${path}: nothing imports it; use it or delete it`);
};

const bannedWords = [
  // In pieces, or this line would be found.
  new RegExp(["\\b(TO", "DO|FIX", "ME|X", "XX|HA", "CK)\\b"].join("")),
  /\b(?:describe|it|context|suite|test)\.(?:only|skip)\(/,
  /@ts-(?:ignore|nocheck)/,
];

/** Words that promise work for later, and tests that are switched off. */
export const noBannedWords: Rule = (repository) =>
  [...repository]
    .filter(([path]) => /\.(ts|mjs|sh|sql|md)$/.test(path))
    .flatMap(([path, text]) =>
      text.split("\n").flatMap((line, index) => {
        const word = bannedWords.map((shape) => shape.exec(line)?.[0]).find((found) => found !== undefined);
        return word === undefined ? [] : [`${path}:${index + 1}: "${word}": do it now, or leave it out`];
      }),
    );

const vagueFolders = new Set([
  "utils",
  "util",
  "helpers",
  "helper",
  "common",
  "controllers",
  "models",
  "misc",
  "lib",
]);

/** Folders are named for what they do; a file that only passes on what others export is no file. */
export const namesSaySomething: Rule = (repository) =>
  sources(repository).flatMap(([path]) => {
    const vague = posix
      .dirname(path)
      .split("/")
      .find((part) => vagueFolders.has(part));
    if (vague !== undefined) return [`${path}: a folder "${vague}" says nothing; name it for what it does`];
    const name = posix.basename(path, ".ts");
    if (name === "index") return [`${path}: no index files; import the file that has it`];
    return vagueFolders.has(name) ? [`${path}: "${name}" says nothing; name it for what it does`] : [];
  });

function packageNameOf(specifier: string): string | undefined {
  if (specifier.startsWith(".") || specifier.startsWith("node:")) return undefined;
  const parts = specifier.split("/");
  return specifier.startsWith("@") ? parts.slice(0, 2).join("/") : parts[0];
}

/** Every import is declared by its package, and everything that is declared is imported. */
export const dependenciesAreTrue: Rule = (repository) => {
  const packages = packagesOf(repository);
  const forTests = packageAt(repository, "package.json").devDependencies;
  return packages.flatMap((owner) => {
    const used = new Set<string>();
    const missing = new Set<string>();
    for (const [path, text] of sources(repository)) {
      if (ownerOf(path, packages) !== owner) continue;
      for (const name of importsOf(text).map(packageNameOf)) {
        if (name === undefined || name === owner.name) continue;
        used.add(name);
        const test =
          isTestCode(path) &&
          (name in forTests || owner.devDependencies.has(name) || name.startsWith("@muster/"));
        if (!owner.dependencies.has(name) && !test) missing.add(`${path}: imports ${name}`);
      }
    }
    const declare = [...missing].map(
      (fault) => `${fault}, which ${owner.folder}/package.json does not declare`,
    );
    const unused = [...owner.dependencies].filter((name) => !used.has(name));
    return [
      ...declare,
      ...unused.map((name) => `${owner.folder}/package.json: declares ${name}, which nothing imports`),
    ];
  });
};

const tops = /`((?:services|shared|agent|scripts|docs|test|infra)\/[A-Za-z0-9_./-]+)`/g;
const madeAtRunTime = /(^|\/)(dist|node_modules|\.muster)(\/|$)/;

/** Every path that a document names is there. */
export const documentsNameWhatExists: Rule = (repository) => {
  const paths = [...repository.keys()];
  const exists = (named: string): boolean => {
    const path = named.replace(/\/+$/, "");
    return repository.has(path) || paths.some((known) => known.startsWith(`${path}/`));
  };
  return [...repository]
    .filter(([path]) => path.endsWith(".md"))
    .flatMap(([path, text]) =>
      [...text.matchAll(tops)]
        .map((match) => match[1] ?? "")
        .filter((named) => !madeAtRunTime.test(named) && !named.includes("golden") && !exists(named))
        .map((named) => `${path}: names ${named}, which is not there`),
    );
};

const lockSchema = z.object({
  packages: z.record(z.string(), z.object({ resolved: z.string().optional(), link: z.boolean().optional() })),
});
const publicRegistry = "https://registry.npmjs.org/";

/** A clone elsewhere can fetch every package that the lock file names. */
export const lockFileIsPublic: Rule = (repository) => {
  const { packages } = lockSchema.parse(JSON.parse(repository.get("package-lock.json") ?? '{"packages":{}}'));
  return Object.entries(packages)
    .filter(
      ([, { resolved, link }]) =>
        resolved !== undefined && link !== true && !resolved.startsWith(publicRegistry),
    )
    .map(([path]) => `package-lock.json: ${path} does not come from ${publicRegistry}`);
};

export const rules: Readonly<Record<string, Rule>> = {
  noDeadFiles,
  noBannedWords,
  namesSaySomething,
  dependenciesAreTrue,
  documentsNameWhatExists,
  lockFileIsPublic,
};

export function faultsOf(repository: Repository): Fault[] {
  return Object.values(rules).flatMap((rule) => rule(repository));
}
