import { execFile } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect } from "chai";
import { createClient } from "@muster/client/client";
import { identityOf, isAlive, signal } from "../system/process-table.ts";
import { waitGone } from "../system/wait.ts";
import { repositoryRoot, runFolder, serviceNames } from "./folder.ts";
import { leftoversOf } from "./leftovers.ts";
import { readRunFile } from "./run-file.ts";
import type { RunFile } from "./run-file.ts";

const run = promisify(execFile);

interface Setup extends AsyncDisposable {
  readonly folder: ReturnType<typeof runFolder>;
  launch(...args: string[]): Promise<string>;
  read(): RunFile;
}

function setup(): Setup {
  const parent = mkdtempSync(join(tmpdir(), "muster run "));
  const folder = runFolder(join(parent, "system"));
  const env = { ...process.env, MUSTER_RUN_FOLDER: folder.root };
  const launch = async (...args: string[]): Promise<string> => {
    const { stdout } = await run(join(repositoryRoot, "scripts", "run"), args, { env, cwd: tmpdir() });
    return stdout;
  };
  const read = (): RunFile => {
    const found = readRunFile(folder.runFile);
    if (found === undefined) throw new Error("there is no run.json");
    return found;
  };
  const dispose = async (): Promise<void> => {
    await launch("--reset");
    rmSync(parent, { recursive: true, force: true });
  };
  return { folder, launch, read, [Symbol.asyncDispose]: dispose };
}

describe("./scripts/run", function () {
  this.timeout(400_000);

  it("starts in the background, is found running, survives a kill of its supervisor, and stops without a trace", async () => {
    await using bundle = setup();
    const { folder, launch, read } = bundle;
    const first = await launch("--detach");
    expect(first).to.match(/│ Linux /);
    expect(first).to.contain("command succeeded: exit 0");
    const before = read();
    expect(statSync(folder.runFile).mode & 0o777).to.equal(0o600);
    expect(Object.keys(before.services).toSorted()).to.deep.equal([...serviceNames].toSorted());
    for (const { health_url: health, metrics_url: metrics } of Object.values(before.services)) {
      expect((await fetch(health)).status).to.equal(200);
      expect((await fetch(metrics)).status).to.equal(200);
    }
    const client = createClient({ baseUrl: before.gateway_url, token: before.owner.api_key });
    expect((await client.whoami()).data.tenant_id).to.equal(before.tenant_id);

    expect(await launch("--detach")).to.contain(`Muster is running (pid ${before.supervisor.pid})`);
    expect(read()).to.deep.equal(before);

    const supervisor = identityOf(before.supervisor.pid);
    if (supervisor === undefined) throw new Error("the supervisor is gone");
    signal(supervisor, "SIGKILL");
    await waitGone([supervisor], 5_000);
    expect(await launch("--detach")).to.contain("that an earlier run left behind");
    const after = read();
    expect(after.owner).to.deep.equal(before.owner);
    expect(after.agents[0]?.vm_uuid).to.equal(before.agents[0]?.vm_uuid);
    expect(isAlive(supervisor)).to.equal(false);

    expect(await launch("--stop")).to.contain("nothing is left running");
    expect(leftoversOf(folder)).to.deep.equal([]);
    expect(existsSync(folder.runFile)).to.equal(false);
    expect(await launch("--stop")).to.contain("nothing is running");
    await launch("--reset");
    expect(existsSync(folder.root)).to.equal(false);
  });
});
