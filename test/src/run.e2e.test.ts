import { execFile, execFileSync } from "node:child_process";
import { existsSync, readFileSync, statSync } from "node:fs";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { after, before, describe, it } from "mocha";
import { expect } from "chai";
import { createClient } from "@muster/client/client";
import { z } from "zod";
import { ended, read, shell } from "./following.ts";
import { repository } from "./processes.ts";

const run = promisify(execFile);

const runFile = z.object({
  gateway_url: z.url(),
  owner: z.object({ email: z.string(), api_key: z.string() }),
  tenant_id: z.string(),
  amqp_url: z.string(),
  database_url: z.string(),
  management_url: z.string(),
  services: z.record(
    z.string(),
    z.object({ pid: z.number().int(), health_url: z.url(), metrics_url: z.url() }),
  ),
  agents: z.array(z.object({ pid: z.number().int(), vm_uuid: z.string() })),
});

/** The shell block of the README under a heading. */
function readmeBlock(heading: string): string {
  const text = readFileSync(join(repository, "README.md"), "utf8");
  const section = text.slice(text.indexOf(`## ${heading}`));
  const block = /```sh\n([\s\S]*?)```/.exec(section)?.[1];
  if (block === undefined) throw new Error(`the README has no commands under ${heading}`);
  return block;
}

async function processesOf(folder: string): Promise<string[]> {
  const pids = (await readdir("/proc")).filter((name) => /^[0-9]+$/.test(name));
  const commands = await Promise.all(
    pids.map(async (pid) => await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "")),
  );
  return commands
    .filter((command) => command.includes(folder))
    .map((command) => command.replaceAll("\0", " "));
}

async function isListening(url: string): Promise<boolean> {
  const { hostname, port } = new URL(url);
  return await new Promise((resolve) => {
    const socket = connect({ host: hostname, port: Number(port) });
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => {
      resolve(false);
    });
  });
}

describe("./scripts/run, as a new user runs it", function () {
  this.timeout(240_000);
  let folder: string;
  const script = async (...args: string[]) =>
    await run(join(folder, "scripts/run"), args, { cwd: "/", env: { ...ownEnvironment(), HOME: folder } });
  const state = () => runFile.parse(JSON.parse(readFileSync(join(folder, ".muster/run.json"), "utf8")));

  /** SIGKILL to every process of this checkout whose command line names the part. */
  const kill = async (part: string) => {
    for (const pid of (await readdir("/proc")).filter((name) => /^[0-9]+$/.test(name))) {
      const line = await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
      if (line.includes(folder) && line.includes(part)) process.kill(Number(pid), "SIGKILL");
    }
  };

  before(async () => {
    const parent = await mkdtemp(join(tmpdir(), "muster run "));
    folder = join(parent, "checkout");
    // The same files on the same disk: what was installed and built is not copied again.
    execFileSync("cp", ["-a", "--reflink=auto", repository, folder]);
    await rm(join(folder, ".muster"), { recursive: true, force: true });
  });
  after(async () => {
    await script("--reset").catch(() => undefined);
    await rm(join(folder, ".."), { recursive: true, force: true });
  });

  it("brings everything up, shows a real command, and tells where things are", async () => {
    const { stdout } = await script("--detach");
    expect(stdout).to.contain("command succeeded: exit 0");
    expect(statSync(join(folder, ".muster/run.json")).mode & 0o777).to.equal(0o600);
    const found = state();
    expect(Object.keys(found.services).sort()).to.deep.equal([
      "auth",
      "gateway",
      "reliability",
      "secrets",
      "vm-ops",
    ]);
    for (const { health_url } of Object.values(found.services)) {
      expect((await fetch(health_url)).status).to.equal(200);
    }
  });

  it("does the job of the README by hand, word for word", async () => {
    const block = readmeBlock("The main job by hand");
    const { stdout } = await run("bash", ["-euc", block], { cwd: folder, env: ownEnvironment() });
    for (const expected of ["line 1", "line 3", "event: end", '"exit_code":0', '"to":"succeeded"']) {
      expect(stdout).to.contain(expected);
    }
  });

  it("changes nothing when it is run again", async () => {
    const first = state();
    await script("--detach");
    expect(state()).to.deep.equal(first);
  });

  it("mends a database that was killed, and says that it runs only when it is ready again", async () => {
    await kill("/bin/postgres");
    await script("--detach");
    const { gateway_url: baseUrl, owner } = state();
    const client = createClient({ baseUrl, token: owner.api_key });
    expect((await client.whoami()).data.tenant_id).to.equal("default");
    expect((await client.listVms()).data.vms).to.have.length(1);
  });

  it("comes back on the same data after kill -9 of its supervisor, a service, the broker and the database", async () => {
    const first = state();
    const client = createClient({ baseUrl: first.gateway_url, token: first.owner.api_key });
    const vm = first.agents[0]!.vm_uuid;
    const { data } = await client.acceptCommand({ body: shell(vm, "echo kept") });
    await ended(client, data.command.id);
    for (const part of ["run/supervisor.js", "vm-ops/dist/src/main.js", "beam.smp", "/bin/postgres"])
      await kill(part);
    await script("--detach");
    const second = state();
    expect(second.owner).to.deep.equal(first.owner);
    const again = createClient({ baseUrl: second.gateway_url, token: second.owner.api_key });
    expect((await read(again, data.command.id)).state).to.equal("succeeded");
  });

  it("leaves no process and no port behind when stopped, and no data when reset", async () => {
    const found = state();
    const client = createClient({ baseUrl: found.gateway_url, token: found.owner.api_key });
    await client.acceptCommand({ body: shell(found.agents[0]!.vm_uuid, "sleep 600") });
    await script("--stop");
    expect(await processesOf(folder)).to.deep.equal([]);
    const urls = [found.gateway_url, found.amqp_url, found.database_url, found.management_url];
    for (const url of urls) expect(await isListening(url), new URL(url).port).to.equal(false);
    await script("--reset");
    expect(existsSync(join(folder, ".muster"))).to.equal(false);
  });
});

/** Nothing of the test servers: the system finds its own. */
function ownEnvironment(): Record<string, string | undefined> {
  return { PATH: process.env.PATH, HOME: process.env.HOME, LANG: "C.UTF-8" };
}
