import { mkdir, readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import type { z } from "zod";
import { actions, type ActionName } from "@muster/contracts/actions";
import { captureLimits } from "./capture.ts";
import { deliveryOf } from "./delivery.ts";
import { environmentOf } from "./environment.ts";
import { getFile } from "./get-file.ts";
import { machineFacts } from "./facts.ts";
import { holdsContent, putFile, sha256Of, wroteOutcome } from "./put-file.ts";
import { files, markerName, type Spec } from "./run-folder.ts";
import { isSupervised, launch, outputOf, reattachRun } from "./run.ts";
import { defaultSecretsDir, hasSecretFiles, removeSecretFiles } from "./secret-files.ts";
import { StartRefused, emptyResult, failed } from "../driver.ts";
import type {
  Driver,
  DriverSurroundings,
  Outcome,
  OutputSource,
  Reattached,
  Running,
  Work,
} from "../driver.ts";

const processActions = ["exec", "script", "file.put", "file.get", "probe", "ping"] as const;
type Note = Readonly<Record<string, string>>;

/** Runs programs and handles files on the machine that the agent runs on. */
export class ProcessDriver implements Driver {
  readonly name = "process";
  readonly actions: readonly ActionName[] = processActions;
  readonly takesSecrets = true;
  readonly #runs: string;
  readonly #home: string;
  readonly #graceMs: number;
  readonly #secretsDir: string;

  private constructor({ home, stopGraceMs, secretsDir }: DriverSurroundings) {
    this.#home = home;
    this.#runs = join(home, "runs");
    this.#graceMs = stopGraceMs;
    this.#secretsDir = secretsDir ?? defaultSecretsDir();
  }

  static async open(o: DriverSurroundings): Promise<ProcessDriver> {
    const driver = new ProcessDriver(o);
    await mkdir(driver.#runs, { recursive: true, mode: 0o700 });
    await driver.#sweepSecrets();
    return driver;
  }

  /** What a supervisor that was killed has left in memory while no agent was there. */
  async #sweepSecrets(): Promise<void> {
    for (const handle of await readdir(this.#runs)) {
      const folder = this.#folder(handle);
      if (hasSecretFiles(folder) && !(await isSupervised(folder))) removeSecretFiles(folder);
    }
  }

  #folder(handle: string): string {
    return join(this.#runs, handle);
  }

  note(work: Work): Note {
    if (work.action !== "file.put") return {};
    const params = actions["file.put"].params.safeParse(work.params);
    if (!params.success) return {};
    return { path: params.data.path, sha256: sha256Of(Buffer.from(params.data.content_base64, "base64")) };
  }

  async start(work: Work): Promise<Running> {
    switch (work.action) {
      case "exec": {
        const { program, args, ...around } = parsed(actions.exec.params, work);
        return this.#run(work, { program, args }, around);
      }
      case "script": {
        const { interpreter, text, args, ...around } = parsed(actions.script.params, work);
        const script = join(this.#folder(work.handle), files.script);
        return this.#run(work, { program: interpreter, args: [script, ...args], script: text }, around);
      }
      case "file.put":
        return atOnce(putFile(parsed(actions["file.put"].params, work)), work.timeoutMs);
      case "file.get":
        return atOnce(getFile(parsed(actions["file.get"].params, work)), work.timeoutMs);
      case "probe":
        return atOnce(this.#probeOutcome(), work.timeoutMs);
      case "ping":
        return atOnce(Promise.resolve(done({ pong: true })), work.timeoutMs);
    }
  }

  async #run(
    work: Work,
    what: Pick<Spec, "program" | "args" | "script">,
    around: {
      env?: Record<string, string> | undefined;
      cwd?: string | undefined;
      stdin?: string | undefined;
      secrets?: string[] | undefined;
    },
  ): Promise<Running> {
    const { env: given, stdin, secret } = deliveryOf(around, work.secrets);
    const env = environmentOf(work.commandId, work.handle, given);
    const cwd = around.cwd ?? env["HOME"] ?? "/";
    const folder = await stat(cwd).catch(() => undefined);
    if (folder === undefined || !folder.isDirectory()) {
      // Said here because the operating system would blame the program for a missing working folder.
      if (around.cwd !== undefined) throw new StartRefused("start_failed", `cwd ${cwd} is not a folder`);
    }
    return launch(this.#folder(work.handle), {
      ...what,
      handle: work.handle,
      marker: `${markerName}=${work.handle}`,
      env,
      cwd: folder?.isDirectory() === true ? cwd : "/",
      ...(stdin === undefined ? {} : { stdin }),
      ...(secret === undefined
        ? {}
        : { secrets: { ...secret, folder: join(this.#secretsDir, work.handle) } }),
      timeoutMs: work.timeoutMs,
      graceMs: this.#graceMs,
      limits: captureLimits,
    });
  }

  async reattach(handle: string, action: ActionName, note: Note): Promise<Reattached> {
    if (action === "exec" || action === "script") {
      return reattachRun(this.#folder(handle), handle, this.#graceMs);
    }
    const { path, sha256 } = note;
    if (action === "file.put" && path !== undefined && sha256 !== undefined) {
      const bytes = await holdsContent(path, sha256);
      if (bytes !== undefined) {
        return { state: "ended", outcome: wroteOutcome(path, bytes, sha256), output: undefined };
      }
    }
    // What runs inside the agent died with it; only file.put leaves anything behind, such as parent folders.
    const effect = action === "file.put" ? "unknown" : "none";
    const error = "the agent was restarted before the action was done";
    return { state: "ended", outcome: failed("agent_restarted", effect, error), output: undefined };
  }

  output(handle: string): OutputSource | undefined {
    return outputOf(this.#folder(handle), () => true);
  }

  async forget(handle: string): Promise<void> {
    removeSecretFiles(this.#folder(handle));
    await rm(this.#folder(handle), { recursive: true, force: true });
  }

  async probe(): Promise<Record<string, unknown>> {
    return machineFacts(this.#home);
  }

  async #probeOutcome(): Promise<Outcome> {
    return done(await this.probe());
  }
}

function done(data: Record<string, unknown>): Outcome {
  const result = { ...emptyResult, data };
  return { outcome: "succeeded", reason: "completed", effect: "none", result };
}

/** Work that is over in a moment, inside the agent: there is nothing to stop. A file system that hangs ends it by time. */
function atOnce(work: Promise<Outcome>, timeoutMs: number): Running {
  const outcome = new Promise<Outcome>((resolve) => {
    const overdue: Outcome = {
      ...{ outcome: "expired", reason: "execution_timeout", effect: "unknown" },
      result: { ...emptyResult, error: `not done within ${timeoutMs} ms` },
    };
    const timer = setTimeout(() => resolve(overdue), timeoutMs);
    void work
      .catch((error: unknown) => failed("start_failed", "unknown", String(error)))
      .then(resolve)
      .finally(() => clearTimeout(timer));
  });
  return { outcome, stop: () => undefined, leave: () => undefined, output: undefined };
}

function parsed<T>(schema: z.ZodType<T>, work: Work): T {
  const params = schema.safeParse(work.params);
  if (params.success) return params.data;
  throw new StartRefused("start_failed", `params do not fit ${work.action}: ${params.error.message}`);
}
