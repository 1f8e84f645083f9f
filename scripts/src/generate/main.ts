import { mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { brokerLogins } from "./broker-logins.ts";
import { httpDocuments } from "./http-documents.ts";
import { meshDocuments, type GeneratedFile } from "./mesh-documents.ts";
import { serviceDocuments } from "./service-documents.ts";

const repository = fileURLToPath(new URL("../../../../", import.meta.url));

function allFiles(): GeneratedFile[] {
  const packageFile: unknown = JSON.parse(readFileSync(join(repository, "package.json"), "utf8"));
  const { version } = z.object({ version: z.string() }).parse(packageFile);
  return [
    ...meshDocuments(repository, version),
    ...httpDocuments(version),
    ...serviceDocuments(),
    brokerLogins(),
  ];
}

function textOf(path: string): string | undefined {
  try {
    return readFileSync(join(repository, path), "utf8");
  } catch {
    return undefined;
  }
}

/** Golden files of contracts that are no longer declared: a removed message is a break as well. */
function orphans(files: readonly GeneratedFile[]): string[] {
  const folder = "shared/contracts/golden";
  const known = new Set(files.map((file) => file.path));
  try {
    return readdirSync(join(repository, folder))
      .map((name) => `${folder}/${name}`)
      .filter((path) => !known.has(path));
  } catch {
    return [];
  }
}

function main(argv: readonly string[]): number {
  const files = allFiles();
  const stale = files.filter((file) => textOf(file.path) !== file.content);
  const gone = orphans(files);
  for (const path of gone) {
    process.stderr.write(
      `${path}: its contract is no longer declared; restore it, or remove the file on purpose\n`,
    );
  }
  if (argv.includes("--check")) {
    for (const file of stale) process.stderr.write(`${file.path} is not current; run npm run generate\n`);
    return stale.length + gone.length > 0 ? 1 : 0;
  }
  for (const file of stale) {
    mkdirSync(dirname(join(repository, file.path)), { recursive: true });
    writeFileSync(join(repository, file.path), file.content);
    process.stdout.write(`wrote ${file.path}\n`);
  }
  return gone.length > 0 ? 1 : 0;
}

try {
  process.exitCode = main(process.argv.slice(2));
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
