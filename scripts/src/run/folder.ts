import { join, resolve } from "node:path";

export const repositoryRoot = join(import.meta.dirname, "..", "..", "..", "..");

/** Where one running system keeps everything it owns. */
export interface RunFolder {
  readonly root: string;
  readonly lock: string;
  readonly runFile: string;
  readonly ports: string;
  readonly secrets: string;
  readonly owner: string;
  readonly machine: string;
  readonly agentHome: string;
  readonly logs: string;
}

/** The folder of this checkout's system, or the one that MUSTER_RUN_FOLDER names: one system each. */
export function chosenFolder(env: NodeJS.ProcessEnv): RunFolder {
  return runFolder(resolve(env["MUSTER_RUN_FOLDER"] || join(repositoryRoot, ".muster")));
}

export function runFolder(root: string): RunFolder {
  return {
    root,
    lock: join(root, "run.lock"),
    runFile: join(root, "run.json"),
    ports: join(root, "ports.json"),
    secrets: join(root, "secrets.json"),
    owner: join(root, "owner.json"),
    machine: join(root, "machine.json"),
    agentHome: join(root, "agent"),
    logs: join(root, "logs"),
  };
}

export function logFileOf(folder: RunFolder, name: string): string {
  return join(folder.logs, `${name}.log`);
}

export const serviceNames = ["auth", "vm-ops", "reliability", "secrets", "gateway"] as const;
export type ServiceName = (typeof serviceNames)[number];
/** Those with a schema of their own, and the role that they log in as. */
export const schemas = {
  auth: "auth",
  "vm-ops": "vm_ops",
  reliability: "reliability",
  secrets: "secrets",
} as const;
export type StoringService = keyof typeof schemas;
export const storingServices: readonly StoringService[] = ["auth", "vm-ops", "reliability", "secrets"];
/** The sealed vault's schema, and the role that it is read by. */
export const vaultSchema = "sealed_vault";

/** A compiled program of a package: `programOf("services/auth", "migrate")`. */
export function programOf(packageFolder: string, name: string): string {
  return join(repositoryRoot, packageFolder, "dist", "src", `${name}.js`);
}
