import { existsSync, readFileSync, readdirSync, statSync } from "node:fs";
import { join, relative, resolve, sep } from "node:path";
import { z } from "zod";

export const kinds = ["unit", "int", "e2e"] as const;
export type Kind = (typeof kinds)[number];

export function kindOf(path: string): Kind {
  if (/\.e2e\.test\.[jt]s$/.test(path)) return "e2e";
  return /\.int\.test\.[jt]s$/.test(path) ? "int" : "unit";
}

/** Where a source of a package is compiled to: `a/src/x.test.ts` → `a/dist/src/x.test.js`; relative to the root. */
export function compiledOf(path: string, packages: readonly string[]): string | undefined {
  const owner = packages.find((folder) => path.startsWith(`${folder}/`));
  if (owner === undefined) return undefined;
  const inside = path.slice(owner.length + 1);
  return `${owner}/${inside.startsWith("dist/") ? "" : "dist/"}${inside.replace(/\.ts$/, ".js")}`;
}

/** The source of a compiled file; the inverse of `compiledOf`. */
export function sourceOf(path: string): string {
  return path.replace("/dist/", "/").replace(/\.js$/, ".ts");
}

const workspaceSchema = z.object({ workspaces: z.array(z.string()) });

/** Folders of the workspace's packages, relative to the root, longest first. */
export function packageFolders(root: string): string[] {
  const { workspaces } = workspaceSchema.parse(JSON.parse(readFileSync(join(root, "package.json"), "utf8")));
  const folders = workspaces.flatMap((pattern) => {
    if (!pattern.endsWith("/*")) return [pattern];
    const parent = pattern.slice(0, -2);
    return readdirSync(join(root, parent)).map((name) => `${parent}/${name}`);
  });
  return folders
    .filter((folder) => existsSync(join(root, folder, "package.json")))
    .toSorted((a, b) => b.length - a.length || a.localeCompare(b));
}

function filesUnder(folder: string): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

/** Compiled tests under a folder of the root whose source is still there: a removed test leaves its compiled one behind. */
function testsUnder(root: string, folder: string): string[] {
  return filesUnder(join(root, folder))
    .map((path) => relative(root, path).split(sep).join("/"))
    .filter((path) => path.endsWith(".test.js") && existsSync(join(root, sourceOf(path))))
    .toSorted();
}

export function allTests(root: string): string[] {
  return packageFolders(root).flatMap((folder) => testsUnder(root, `${folder}/dist`));
}

/** The compiled tests that the arguments name: sources, compiled files or folders; relative to `cwd` or the root. */
export function namedTests(root: string, cwd: string, named: readonly string[]): string[] {
  const packages = packageFolders(root);
  const found = named.flatMap((name) => {
    const path = [resolve(cwd, name), resolve(root, name)].find(existsSync);
    if (path === undefined) throw new Error(`no such test: ${name}`);
    const inRoot = relative(root, path).split(sep).join("/");
    if (statSync(path).isDirectory()) {
      const prefix = inRoot === "" ? "" : `${inRoot}/`;
      const inside = allTests(root).filter(
        (test) => test.startsWith(prefix) || sourceOf(test).startsWith(prefix),
      );
      if (inside.length === 0) throw new Error(`no tests in ${name}`);
      return inside;
    }
    const compiled = compiledOf(inRoot, packages);
    if (compiled === undefined || !/\.test\.js$/.test(compiled) || !existsSync(join(root, compiled))) {
      throw new Error(`${name} is not a test of this workspace; tests end in .test.ts`);
    }
    return [compiled];
  });
  return [...new Set(found)];
}
