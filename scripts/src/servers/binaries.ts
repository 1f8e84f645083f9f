import { accessSync, constants, existsSync, readdirSync, realpathSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";

export interface RabbitBinaries {
  readonly server: string;
  /** Of the installed broker, "3.10.8"; "unknown" where the folder does not say. */
  readonly version: string;
  readonly epmd: string | undefined;
}

export interface PostgresBinaries {
  readonly folder: string;
  readonly major: number;
}

/** Where to look; a test looks elsewhere. */
export interface SearchRoots {
  readonly rabbit: readonly string[];
  readonly postgres: readonly string[];
  readonly path: readonly string[];
}

export function defaultRoots(env: NodeJS.ProcessEnv): SearchRoots {
  const onPath = (env["PATH"] ?? "").split(delimiter).filter((folder) => folder.startsWith("/"));
  return {
    rabbit: ["/usr/lib/rabbitmq/bin", "/opt/homebrew/opt/rabbitmq/sbin", "/usr/local/opt/rabbitmq/sbin"],
    postgres: ["/usr/lib/postgresql", "/usr/pgsql"],
    path: [
      ...new Set([...onPath, "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]),
    ],
  };
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

export function findOnPath(name: string, folders: readonly string[]): string | undefined {
  return folders.map((folder) => join(folder, name)).find(isExecutable);
}

// Debian's /usr/sbin/rabbitmq-server changes user and home, so a private node cannot be started through it.
function isPlainServer(path: string): boolean {
  return isExecutable(path) && !realpathSync(path).endsWith("rabbitmq-script-wrapper");
}

export function findRabbit(roots: SearchRoots): RabbitBinaries | undefined {
  const server = [...roots.rabbit, ...roots.path]
    .map((folder) => join(folder, "rabbitmq-server"))
    .find(isPlainServer);
  if (server === undefined) return undefined;
  const version = /rabbitmq_server-([0-9]+\.[0-9]+\.[0-9]+)/.exec(realpathSync(server))?.[1] ?? "unknown";
  return { server, version, epmd: findOnPath("epmd", roots.path) };
}

function majorOf(folder: string): number | undefined {
  const major = /(?:postgresql|pgsql|postgresql@)[-/]?([0-9]+)\/bin$/.exec(folder)?.[1];
  return major === undefined ? undefined : Number(major);
}

function postgresFolders(roots: SearchRoots): string[] {
  const versioned = roots.postgres
    .filter((root) => existsSync(root))
    .flatMap((root) => readdirSync(root).map((name) => join(root, name, "bin")));
  const linked = roots.path
    .filter((folder) => isExecutable(join(folder, "initdb")))
    .map((folder) => dirname(realpathSync(join(folder, "initdb"))));
  return [...versioned, ...linked].filter(
    (folder) => isExecutable(join(folder, "initdb")) && isExecutable(join(folder, "postgres")),
  );
}

/** The newest installed PostgreSQL from 14 on, or the one of the wanted major version if that is there too. */
export function findPostgres(roots: SearchRoots, wantedMajor?: number): PostgresBinaries | undefined {
  const found = postgresFolders(roots)
    .map((folder) => ({ folder, major: majorOf(folder) ?? 0 }))
    .filter(({ major }) => major === 0 || major >= 14)
    .toSorted((a, b) => b.major - a.major);
  return found.find(({ major }) => major === wantedMajor) ?? found[0];
}
