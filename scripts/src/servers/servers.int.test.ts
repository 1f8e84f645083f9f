import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  realpathSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { probeDatabase } from "@muster/database/probe";
import { expect } from "chai";
import { z } from "zod";
import { parseAmqpUrl, probeAmqp } from "./amqp-probe.ts";
import { defaultRoots, findPostgres } from "./binaries.ts";
import { removeServerData, startServers } from "./servers.ts";
import type { Servers } from "./servers.ts";
import { isPortOpen, portHolder } from "../system/ports.ts";
import { allProcesses, commandLineOf, identityOf, processesWith, signal } from "../system/process-table.ts";
import { pollUntil, waitGone } from "../system/wait.ts";

interface Setup extends AsyncDisposable {
  readonly folder: string;
  readonly said: string[];
  start(): Promise<Servers>;
}

/** A folder as a careless person makes it: closed to others and with a space in its path. */
function setup(): Setup {
  const parent = mkdtempSync(join(realpathSync(tmpdir()), "muster servers "));
  chmodSync(parent, 0o711);
  const folder = join(parent, ".muster");
  const said: string[] = [];
  const started: Servers[] = [];
  const start = async (): Promise<Servers> => {
    const servers = await startServers({
      folder,
      durable: true,
      log: (line) => said.push(line),
      env: process.env,
    });
    started.push(servers);
    return servers;
  };
  const dispose = async (): Promise<void> => {
    for (const servers of started) await servers.stop();
    removeServerData(folder);
    removeServerData(parent);
  };
  return { folder, said, start, [Symbol.asyncDispose]: dispose };
}

function processesOf(folder: string): string[] {
  const byHome = processesWith("HOME", join(folder, "rabbitmq", "home"));
  const byCommand = allProcesses().filter(
    ({ pid }) => commandLineOf(pid).includes(folder) && pid !== process.pid,
  );
  return [...byHome, ...byCommand].map(({ pid }) => commandLineOf(pid));
}

async function management(url: string, method: string, path: string, body?: unknown): Promise<number> {
  const { username, password, origin } = new URL(url);
  const authorization = `Basic ${Buffer.from(`${username}:${password}`).toString("base64")}`;
  const answer = await fetch(`${origin}/api${path}`, {
    method,
    headers: { authorization, "content-type": "application/json" },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  await answer.arrayBuffer();
  return answer.status;
}

function psql(url: string, statement: string): string {
  const folder = findPostgres(defaultRoots(process.env))?.folder ?? "";
  return execFileSync(join(folder, "psql"), [url, "-X", "-A", "-t", "-q", "-c", statement], {
    encoding: "utf8",
  }).trim();
}

/** The broker's own tables reach the disk up to two seconds after it answered. */
async function writtenDown(folder: string, word: string): Promise<void> {
  const tables = join(folder, "rabbitmq", "mnesia", "muster@localhost");
  const holds = (name: string): boolean => readFileSync(join(tables, name), "latin1").includes(word);
  const found = await pollUntil(
    () => readdirSync(tables).some((name) => /\.(LOG|DCD|DCL|DAT)$/.test(name) && holds(name)),
    { timeoutMs: 20_000 },
  );
  expect(found).to.equal(true);
}

const heldSchema = z.object({
  amqpUrl: z.string(),
  managementUrl: z.string(),
  databaseUrl: z.string(),
  broker: z.number(),
  database: z.number(),
});

async function holdInOtherProcess(
  folder: string,
): Promise<{ pid: number; held: z.output<typeof heldSchema> }> {
  const program = join(import.meta.dirname, "hold-servers.js");
  const child = spawn(process.execPath, [program, folder], { stdio: ["ignore", "pipe", "inherit"] });
  const [line] = await once(createInterface({ input: child.stdout }), "line");
  if (child.pid === undefined) throw new Error("the holder did not start");
  return { pid: child.pid, held: heldSchema.parse(JSON.parse(String(line))) };
}

function killNow(...pids: readonly number[]): Promise<boolean> {
  const found = pids.map(identityOf).filter((one) => one !== undefined);
  for (const one of found) signal(one, "SIGKILL");
  return waitGone(found, 5_000);
}

describe("private servers", function () {
  this.timeout(240_000);

  before(function () {
    const named = process.env["AMQP_URL"] !== undefined || process.env["DATABASE_URL"] !== undefined;
    if (named) this.skip();
  });

  it("stand beside another pair, listen on the loopback address only, and leave no process and no port", async () => {
    await using first = setup();
    await using second = setup();
    const pairs = await Promise.all([first.start(), second.start()]);
    for (const servers of pairs) {
      await probeAmqp(parseAmqpUrl(servers.amqpUrl), 5_000);
      expect(await probeDatabase(servers.databaseUrl, 5_000)).to.match(/^\d+/);
      expect(await management(servers.managementUrl, "GET", "/users/guest")).to.equal(404);
      for (const port of [...servers.broker.ports(), ...servers.database.ports()]) {
        expect(await isPortOpen(port), `port ${port}`).to.equal(true);
      }
    }
    const [one, two] = pairs;
    expect(one.amqpUrl).to.not.equal(two.amqpUrl);
    await one.stop();
    await one.stop();
    await probeAmqp(parseAmqpUrl(two.amqpUrl), 5_000);
    expect(processesOf(first.folder)).to.deep.equal([]);
    for (const port of [...one.broker.ports(), ...one.database.ports()]) {
      expect(portHolder(port), `port ${port}`).to.equal(undefined);
    }
    expect(statSync(join(first.folder, "secrets.json")).mode & 0o777).to.equal(0o600);
  });

  it("start again on the same data and ports after everything was killed at once", async () => {
    await using bundle = setup();
    const { pid, held } = await holdInOtherProcess(bundle.folder);
    psql(held.databaseUrl, "CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)");
    expect(await management(held.managementUrl, "PUT", "/queues/%2F/kept-queue", { durable: true })).to.equal(
      201,
    );
    await writtenDown(bundle.folder, "kept-queue");
    const mappers = processesWith("HOME", join(bundle.folder, "rabbitmq", "home"));
    await killNow(pid, held.broker, held.database, ...mappers.map((entry) => entry.pid));
    const servers = await bundle.start();
    expect(servers.amqpUrl).to.equal(held.amqpUrl);
    expect(servers.databaseUrl).to.equal(held.databaseUrl);
    expect(psql(servers.databaseUrl, "SELECT n FROM kept")).to.equal("7");
    // The node answers before it has recovered the queues of its virtual hosts.
    const isBack = async () =>
      (await management(servers.managementUrl, "GET", "/queues/%2F/kept-queue")) === 200;
    expect(await pollUntil(isBack, { timeoutMs: 45_000 })).to.equal(true);
  });

  it("take over what a killed holder left running, and choose other ports for those that were taken", async () => {
    await using bundle = setup();
    const { pid, held } = await holdInOtherProcess(bundle.folder);
    psql(held.databaseUrl, "CREATE TABLE kept (n int); INSERT INTO kept VALUES (8)");
    await killNow(pid);
    const taken = createServer();
    const first = await bundle.start();
    expect(first.amqpUrl).to.equal(held.amqpUrl);
    expect(bundle.said.join("\n")).to.contain("left behind by an earlier run");
    await first.stop();
    taken.listen(parseAmqpUrl(held.amqpUrl).port, "127.0.0.1");
    await once(taken, "listening");
    const second = await bundle.start();
    taken.close();
    expect(second.amqpUrl).to.not.equal(held.amqpUrl);
    expect(bundle.said.join("\n")).to.contain(`is now taken by pid ${process.pid}`);
    expect(psql(second.databaseUrl, "SELECT n FROM kept")).to.equal("8");
  });

  it("are reported dead when they are killed, and start again where they were", async () => {
    await using bundle = setup();
    const servers = await bundle.start();
    const dead: string[] = [];
    servers.broker.onDeath(() => dead.push("broker"));
    servers.database.onDeath(() => dead.push("database"));
    await servers.killBroker("SIGKILL");
    await servers.killDatabase("SIGKILL");
    await pollUntil(() => dead.length === 2, { timeoutMs: 30_000 });
    expect(dead.toSorted()).to.deep.equal(["broker", "database"]);
    await Promise.all([servers.restartBroker(), servers.restartDatabase()]);
    await probeAmqp(parseAmqpUrl(servers.amqpUrl), 5_000);
    await probeDatabase(servers.databaseUrl, 5_000);
    await servers.restartBroker();
    await probeAmqp(parseAmqpUrl(servers.amqpUrl), 5_000);
  });

  it("leave nothing when the start is broken off", async () => {
    await using bundle = setup();
    const stop = new AbortController();
    const { folder } = bundle;
    const log = (): void => void setTimeout(() => stop.abort(new Error("broken off")), 800);
    const starting = startServers({ folder, durable: false, log, env: process.env, signal: stop.signal });
    const outcome = await starting.then(
      () => "started",
      (error: unknown) => String(error),
    );
    expect(outcome).to.not.equal("started");
    expect(processesOf(folder)).to.deep.equal([]);
  });

  it("refuse an address that does not answer, naming the setting, and start nothing instead", async () => {
    await using bundle = setup();
    const { folder } = bundle;
    writeFileSync(join(bundle.folder, "..", "unrelated"), "");
    const env = { PATH: process.env["PATH"], AMQP_URL: "amqp://u:hidden@127.0.0.1:1" };
    const outcome = await startServers({ folder, durable: false, log: () => undefined, env }).then(
      () => "started",
      (error: unknown) => String(error),
    );
    expect(outcome).to.match(/AMQP_URL amqp:\/\/u:\*\*\*@127\.0\.0\.1:1 cannot be used: .*ECONNREFUSED/);
    expect(outcome).to.not.contain("hidden");
    expect(processesOf(folder)).to.deep.equal([]);
  });
});
