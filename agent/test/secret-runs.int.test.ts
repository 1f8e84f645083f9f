import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { ResolvedSecrets } from "@muster/contracts/secret-reports";
import { uuidv7 } from "@muster/contracts/ids";
import { eventually } from "@muster/testing/eventually";
import { expect } from "chai";
import { after, describe, it } from "mocha";
import { z } from "zod";
import { StartRefused, type Outcome, type OutputSource, type Work } from "../src/drivers/driver.ts";
import { ProcessDriver } from "../src/drivers/process/process-driver.ts";
import { readProcess } from "../src/drivers/process/procfs.ts";
import { spawnSide, temporaryHome } from "./agent-side.ts";
import { filesBelow, memoryFolder } from "./memory.ts";

const canary = `canary-${uuidv7()}/+=ü`;
const reference = "secret://db_password";
const lines = `-----BEGIN KEY-----\n${"bGluZQ".repeat(9)}\n-----END KEY-----\n`;

async function setup(o: { secretsDir?: string } = {}) {
  const { home, remove } = await temporaryHome();
  const memory = memoryFolder();
  const secretsDir = o.secretsDir ?? memory.path;
  const open = () => ProcessDriver.open({ home, stopGraceMs: 500, secretsDir });
  const driver = await open();
  const script = (text: string, params: Work["params"], secrets: ResolvedSecrets): Work => {
    const commandId = uuidv7();
    const around = { action: "script", params: { text, ...params }, timeoutMs: 60_000 } as const;
    return { handle: `${commandId}.1`, commandId, ...around, secrets };
  };
  return {
    ...{ home, driver, script, memory: memory.path, open, secretsDir },
    run: async (work: Work): Promise<{ outcome: Outcome; output: OutputSource | undefined }> => {
      const running = await driver.start(work);
      return { outcome: await running.outcome, output: running.output };
    },
    folder: (of: Work): string => join(home, "runs", of.handle),
    remove: async () => {
      await remove();
      memory.remove();
    },
  };
}

async function textOf(output: OutputSource | undefined): Promise<string> {
  const parts: Buffer[] = [];
  for (let offset = 0; ;) {
    const piece = await output?.read("stdout", offset, 65_536);
    if (piece === undefined) break;
    parts.push(piece.data);
    offset = piece.offset + piece.data.length;
    if (piece.last) break;
  }
  return Buffer.concat(parts).toString();
}

const given = (as: ResolvedSecrets[number]["as"], value = canary, of = reference): ResolvedSecrets => [
  { reference: of, version: 1, value, as },
];
const refusalOf = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => "started",
    (error: unknown) => (error instanceof StartRefused ? `${error.reason}: ${error.message}` : String(error)),
  );

/** Nothing of a secret stands in any file below these folders. */
function expectNowhere(value: string, ...folders: readonly string[]): void {
  for (const path of folders.flatMap(filesBelow)) {
    const bytes = readFileSync(path);
    for (const form of [value, Buffer.from(value).toString("base64"), Buffer.from(value).toString("hex")]) {
      expect(bytes.includes(form), `${path} has it`).to.equal(false);
    }
  }
}

describe("a run with secrets", function () {
  this.timeout(30_000);
  const cleanings: (() => Promise<void>)[] = [];
  after(async () => {
    for (const clean of cleanings) await clean();
  });
  async function prepared(o: Parameters<typeof setup>[0] = {}) {
    const s = await setup(o);
    cleanings.push(s.remove);
    return s;
  }

  it("has them in env, on stdin and in files, exactly; its output has none of their forms, and nothing is left", async () => {
    const { home, memory, script, run } = await prepared();
    const text = `
      printf %s "$A" | sha256sum; cat /dev/stdin | sha256sum
      printf '%s' "$A" | base64; echo "<$A>"; cat "$MUSTER_SECRETS_DIR/key.pem"; cat ${memory}/abs; echo "$A" >&2
      stat -c '%a' "$MUSTER_SECRETS_DIR" "$MUSTER_SECRETS_DIR/key.pem" ${memory}/abs; cat "$MUSTER_SECRETS_DIR/key.pem" | base64`;
    const params = { env: { A: reference }, stdin: "secret://in", secrets: ["secret://pem", "secret://abs"] };
    const [onStdin, absolute] = [`stdin-${uuidv7()}`, `absolute-${uuidv7()}`];
    const work = script(text, params, [
      ...given({ file: "unused" }),
      ...given({ env: "UNUSED" }, onStdin, "secret://in"),
      ...given({ file: "key.pem" }, lines, "secret://pem"),
      ...given({ file: join(memory, "abs") }, absolute, "secret://abs"),
    ]);
    const { outcome, output } = await run(work);
    expect(outcome, JSON.stringify(outcome)).to.include({ outcome: "succeeded" });
    const hashOf = (value: string): string => createHash("sha256").update(value).digest("hex");
    const out = await textOf(output);
    expect(out)
      .to.include(hashOf(canary))
      .and.include(hashOf(onStdin))

      .and.include("<***>");
    expect(out).to.match(/700\n600\n600\n/);
    for (const value of [canary, onStdin, lines, absolute]) expectNowhere(value, home, memory);
    expect(out).to.not.include(canary).and.not.include("BEGIN KEY").and.not.include(absolute);
    expect(readdirSync(memory)).to.deep.equal([]);
  });

  it("writes them into no file on disk while it runs, and removes them from memory before its end is told", async () => {
    const { home, memory, driver, script, folder } = await prepared();
    const params = { env: { A: reference }, secrets: [reference] };
    const work = script(
      `touch ${home}/on; while [ ! -e ${home}/go ]; do sleep 0.05; done`,
      params,
      given({ file: "f" }),
    );
    expect(JSON.stringify(driver.note(work))).to.equal("{}");
    const running = await driver.start(work);
    await eventually(() => existsSync(join(home, "on")));
    expectNowhere(canary, home);
    const path = join(memory, work.handle, "f");
    expect(readFileSync(path, "utf8")).to.equal(canary);
    expect(statSync(path).mode & 0o777).to.equal(0o600);
    writeFileSync(join(home, "go"), "");
    await running.outcome;
    expect(existsSync(join(folder(work), "exit.json"))).to.equal(true);
    expect(readdirSync(memory)).to.deep.equal([]);
  });

  it("leaves no core dump, nor does its supervisor", async () => {
    const { script, run, driver, folder, home } = await prepared();
    const limitOf = (text: string): number[] =>
      (/Max core file size\s+(\d+)\s+(\d+)/.exec(text) ?? []).slice(1).map(Number);
    const own = await run(script("cat /proc/self/limits", { env: { A: reference } }, given({ env: "A" })));
    const ofProgram = limitOf(await textOf(own.output));
    const work = script(`touch ${home}/on; sleep 60`, { env: { A: reference } }, given({ env: "A" }));
    const running = await driver.start(work);
    await eventually(() => existsSync(join(home, "on")));
    const record = z.object({ pid: z.number() });
    const { pid } = record.parse(JSON.parse(readFileSync(join(folder(work), "supervisor.json"), "utf8")));
    const ofSupervisor = limitOf(readFileSync(`/proc/${pid}/limits`, "utf8"));
    running.stop();
    await running.outcome;
    for (const limits of [ofProgram, ofSupervisor]) {
      expect(limits).to.have.length(2);
      for (const limit of limits) expect(limit).to.be.at.most(1);
    }
  });

  it("is refused before anything starts where a file is there, or is not in memory, or its folder is another's", async () => {
    const { home, memory, driver, script } = await prepared();
    const started = join(home, "started");
    const tryTo = (file: string, of = driver) =>
      refusalOf(of.start(script(`touch ${started}`, { secrets: [reference] }, given({ file }))));
    writeFileSync(join(memory, "there"), "another's");
    expect(await tryTo(join(memory, "there"))).to.match(/^secret_refused: .*there is there already/);
    expect(readFileSync(join(memory, "there"), "utf8")).to.equal("another's");
    expect(await tryTo(join(home, "on-disk"))).to.match(/^secret_refused: .*not on a file system in memory/);
    expect(existsSync(join(home, "on-disk"))).to.equal(false);
    expect(await tryTo(join(memory, "no", "folder"))).to.match(
      /^secret_refused: .*cannot be made \(ENOENT\)/,
    );
    const onDisk = await ProcessDriver.open({ home, stopGraceMs: 500, secretsDir: join(home, "secrets") });
    expect(await tryTo("f", onDisk)).to.match(/^secret_refused: .*secrets is not on a file system in memory/);
    const open = join(memory, "open");
    mkdirSync(open, { mode: 0o755 });
    const shared = await ProcessDriver.open({ home, stopGraceMs: 500, secretsDir: open });
    expect(await tryTo("f", shared)).to.match(/^secret_refused: .*mode 0700/);
    expect(existsSync(started)).to.equal(false);
    expect(readdirSync(memory).sort()).to.deep.equal(["open", "there"]);
    expect(filesBelow(open)).to.deep.equal([]);
  });

  it("is refused where its driver was not given what it names: no reference ever stands for a value", async () => {
    const { driver, script } = await prepared();
    const { secrets: _, ...work } = script("true", { env: { A: reference } }, []);
    expect(await refusalOf(driver.start(work))).to.match(
      /^secret_refused: secret:\/\/db_password was not given/,
    );
  });

  it("has its files removed when its supervisor is killed, by the agent that follows it, and no file of others", async () => {
    const { home, memory, driver, script, folder } = await prepared();
    const absolute = join(memory, "abs");
    const secrets = [...given({ file: "f" }), ...given({ file: absolute }, "other", "secret://b")];
    const work = (text: string) => script(text, { secrets: [reference, "secret://b"] }, secrets);
    const leaves = work(`touch ${home}/first; sleep 60`);
    const replaces = work(`rm ${absolute}; echo "another's" > ${absolute}; touch ${home}/second; sleep 60`);
    for (const [one, name] of [
      [leaves, "first"],
      [replaces, "second"],
    ] as const) {
      const running = await driver.start(one);
      await eventually(() => existsSync(join(home, name)));
      killSupervisor(folder(one));
      expect(await running.outcome).to.include({ reason: "supervisor_lost" });
      expect(readdirSync(memory)).to.deep.equal(one === leaves ? [] : ["abs"]);
    }
    expect(readFileSync(absolute, "utf8")).to.equal("another's\n");
  });

  it("has its files removed when its supervisor and its agent are killed, by the next start, and by no other", async () => {
    const { home, memory, script, folder, open, secretsDir } = await prepared();
    const works = ["lost", "alive"].map((name) =>
      script(
        `touch ${home}/${name}; while [ ! -e ${home}/go ]; do sleep 0.05; done`,
        { secrets: [reference] },
        given({ file: "f" }),
      ),
    );
    const agents = works.map((work) => spawnSide("run-starter", [home, JSON.stringify(work), secretsDir]));
    await eventually(() => existsSync(join(home, "lost")) && existsSync(join(home, "alive")));
    for (const agent of agents) await agent.crash();
    const [lost, alive] = works;
    if (lost === undefined || alive === undefined) throw new Error("no works");
    killSupervisor(folder(lost));
    await open();
    expect(readdirSync(memory)).to.deep.equal([alive.handle]);
    writeFileSync(join(home, "go"), "");
    await eventually(() => existsSync(join(folder(alive), "exit.json")));
    expect(readdirSync(memory)).to.deep.equal([]);
    expectNowhere(canary, home);
  });
});

function killSupervisor(folder: string): void {
  const record = JSON.parse(readFileSync(join(folder, "supervisor.json"), "utf8"));
  const { pid } = z.object({ pid: z.number() }).parse(record);
  process.kill(pid, "SIGKILL");
  const end = performance.now() + 5_000;
  while (readProcess(pid) !== undefined && performance.now() < end);
}
