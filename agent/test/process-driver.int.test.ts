import { createHash } from "node:crypto";
import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { existsSync, readFileSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { uuidv7 } from "@muster/contracts/ids";
import { eventually } from "@muster/testing/eventually";
import { expect } from "chai";
import { z } from "zod";
import { AlreadyStarted } from "../src/drivers/already-started.ts";
import { StartRefused, type Outcome, type OutputSource, type Work } from "../src/drivers/driver.ts";
import { ProcessDriver } from "../src/drivers/process/process-driver.ts";
import { readProcess } from "../src/drivers/process/procfs.ts";
import { spawnSide, temporaryHome } from "./agent-side.ts";

async function setup(o: { killGraceMs?: number } = {}) {
  const { home, remove } = await temporaryHome();
  const driver = await ProcessDriver.open({ home, stopGraceMs: o.killGraceMs ?? 500 });
  const work = (action: Work["action"], params: Work["params"], timeoutMs = 60_000): Work => {
    const commandId = uuidv7();
    return { handle: `${commandId}.1`, commandId, action, params, timeoutMs };
  };
  const script = (text: string, more: Work["params"] = {}, timeoutMs?: number): Work =>
    work("script", { text, ...more }, timeoutMs);
  const folder = (of: Work): string => join(home, "runs", of.handle);
  const run = async (of: Work): Promise<{ outcome: Outcome; output: OutputSource | undefined }> => {
    const running = await driver.start(of);
    return { outcome: await running.outcome, output: running.output };
  };
  return { home, remove, driver, work, script, folder, run };
}

async function textOf(
  output: OutputSource | undefined,
  stream: "stdout" | "stderr" = "stdout",
): Promise<string> {
  const parts: Buffer[] = [];
  for (let offset = 0; ;) {
    const piece = await output?.read(stream, offset, 65_536);
    if (piece === undefined) break;
    parts.push(piece.data);
    offset = piece.offset + piece.data.length;
    if (piece.last) break;
  }
  return Buffer.concat(parts).toString("latin1");
}

async function socketPair(): Promise<[Socket, Socket]> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const far = connect((server.address() as AddressInfo).port, "127.0.0.1");
  const [near] = (await once(server, "connection")) as [Socket];
  server.close();
  return [near, far];
}

const pidIn = (path: string): number => Number(readFileSync(path, "utf8"));
const refusal = (error: unknown): unknown => error;

describe("exec and script", () => {
  it("give exit code, both streams as bytes, stdin, arguments and working folder", async () => {
    const { home, remove, script, run } = await setup();
    const text = 'cat; printf "\\000\\377" ; echo "$1 $(pwd)" > /dev/stderr; exit 3';
    const { outcome, output } = await run(script(text, { args: ["one two"], stdin: "in", cwd: home }));
    expect(outcome).to.include({ outcome: "failed", reason: "exit_nonzero" });
    expect(outcome.result.exit_code).to.equal(3);
    expect(await textOf(output)).to.equal("in\x00\xff");
    expect(await textOf(output, "stderr")).to.equal(`one two ${home}\n`);
    await remove();
  });

  it("run with a clean environment: what was given and who runs it, nothing of the agent's", async () => {
    const { remove, work, run } = await setup();
    process.env["MUSTER_AMQP_URL_SECRET_OF_TEST"] = "secret";
    const of = work("exec", { program: "env", env: { GIVEN: "yes" } });
    const { output } = await run(of);
    delete process.env["MUSTER_AMQP_URL_SECRET_OF_TEST"];
    const names = (await textOf(output))
      .trim()
      .split("\n")
      .map((line) => line.split("=")[0]);
    expect(names).to.have.members([
      ...["PATH", "HOME", "LANG", "USER", "SHELL", "TERM", "GIVEN"],
      ...["MUSTER_COMMAND_ID", "MUSTER_COMMAND_HANDLE"],
    ]);
    await remove();
  });

  it("say what is wrong, with effect none, when the program, its rights or its folder are missing", async () => {
    const { remove, driver, work, run } = await setup();
    const missing = await run(work("exec", { program: "no-such-program" }));
    expect(missing.outcome).to.include({ outcome: "failed", reason: "start_failed", effect: "none" });
    expect(missing.outcome.result.error).to.contain("no-such-program: no such program");
    const forbidden = await run(work("exec", { program: "/etc/passwd" }));
    expect(forbidden.outcome.result.error).to.contain("may not be executed");
    const noFolder = await driver.start(work("exec", { program: "env", cwd: "/no/such" })).catch(refusal);
    expect(noFolder)
      .to.be.instanceOf(StartRefused)
      .and.have.property("message", "cwd /no/such is not a folder");
    await remove();
  });

  it("start one handle once: a second start is refused and runs nothing", async () => {
    const { home, remove, driver, script } = await setup();
    const of = script(`echo x >> ${home}/starts`);
    const starts = await Promise.all([1, 2, 3].map(() => driver.start(of).catch(refusal)));
    expect(starts.filter((start) => start instanceof AlreadyStarted)).to.have.length(2);
    await eventually(() => expect(existsSync(join(home, "runs", of.handle, "exit.json"))).to.equal(true));
    expect(await driver.start(of).catch(refusal)).to.be.instanceOf(AlreadyStarted);
    expect(readFileSync(join(home, "starts"), "utf8")).to.equal("x\n");
    await remove();
  });

  it("are seen to end however late their agent hears of their begin", async () => {
    const { remove, script, run } = await setup();
    // Its event loop is held up while it reads what others sent, for longer than a run takes: it can hear of an end
    // together with another one, before it has read what was said at the begin.
    const [near, far] = await socketPair();
    const never = new Int32Array(new SharedArrayBuffer(4));
    near.on("data", () => {
      Atomics.wait(never, 0, 0, 100);
      far.write("x");
    });
    far.write("x");
    const runs = await Promise.all(Array.from({ length: 24 }, () => run(script("true"))));
    near.destroy();
    far.destroy();
    expect(runs.map(({ outcome }) => outcome.outcome)).to.deep.equal(runs.map(() => "succeeded"));
    await remove();
  });

  it("never block or fill the disk with a program that prints without end, and say how much there was", async () => {
    const { remove, script, folder, run } = await setup();
    const of = script("yes abcdefg", {}, 2_000);
    const { outcome, output } = await run(of);
    expect(outcome).to.include({ outcome: "expired", reason: "execution_timeout" });
    const totals = outcome.result.output?.stdout;
    expect(totals?.bytes_total).to.be.greaterThan(20 * 1024 * 1024);
    expect(totals).to.include({ bytes_kept: 2 * 1024 * 1024, truncated: true });
    const used = readdirSync(folder(of)).map((name) => statSync(join(folder(of), name)).size);
    expect(used.reduce((sum, size) => sum + size, 0)).to.be.below(2.2 * 1024 * 1024);
    const text = await textOf(output);
    expect(text).to.have.length(2 * 1024 * 1024);
    const line = "abcdefg\n";
    const tail = text.slice(-1024 * 1024);
    const phase = ((totals?.bytes_total ?? 0) - tail.length) % line.length;
    expect(tail.startsWith(line.slice(phase))).to.equal(true);
    await remove();
  }).timeout(20_000);

  it("keep the head, say the cut and hash everything of an output that is larger than what is kept", async () => {
    const { remove, script, run } = await setup();
    const { outcome, output } = await run(script("seq 1 600000"));
    const totals = outcome.result.output?.stdout;
    const whole = Array.from({ length: 600_000 }, (_, index) => `${index + 1}\n`).join("");
    expect(totals?.sha256).to.equal(createHash("sha256").update(whole).digest("hex"));
    expect(totals).to.include({ bytes_total: whole.length, truncated: true });
    const text = await textOf(output);
    expect(text.slice(0, 1024 * 1024)).to.equal(whole.slice(0, 1024 * 1024));
    expect(text.slice(1024 * 1024)).to.equal(whole.slice(-1024 * 1024));
    await remove();
  }).timeout(20_000);

  it("stop everything on cancel: what ignores TERM, what left the session, what dropped its environment", async () => {
    const { home, remove, driver, script } = await setup();
    const pids = ["main", "session", "bare"].map((name) => join(home, name));
    const of = script(
      `trap '' TERM
       setsid sh -c 'trap "" TERM; echo $$ > ${pids[1]}; sleep 100' &
       env -i setsid sh -c 'echo $$ > ${pids[2]}; sleep 100' &
       echo $$ > ${pids[0]}; sleep 100; sleep 100`,
    );
    const running = await driver.start(of);
    await eventually(() => pids.every((path) => /\d+\n/.test(readFileSync(path, "utf8"))));
    running.stop();
    expect(await running.outcome).to.include({ outcome: "cancelled", effect: "unknown" });
    for (const path of pids) expect(readProcess(pidIn(path)), path).to.equal(undefined);
    await remove();
  }).timeout(20_000);

  it("end by its exit code although something it left behind holds its output open", async () => {
    const { remove, script, run } = await setup();
    const { outcome } = await run(script("sleep 8 & exit 0"));
    expect(outcome).to.include({ outcome: "succeeded" });
    expect(outcome.result.run_ms).to.be.below(2_000);
    await remove();
  }).timeout(20_000);
});

describe("a run whose agent was killed", () => {
  it("goes on, is found again, and has one start, its exit code and its whole output", async () => {
    const { home, remove, driver, script } = await setup();
    const of = script(
      `echo x >> ${home}/starts; for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.2; done; exit 7`,
    );
    const agent = spawnSide("run-starter", [home, JSON.stringify(of)]);
    await eventually(() => expect(agent.lines).to.include("started"));
    await agent.crash();
    const found = await driver.reattach(of.handle, "script", {});
    expect(found.state).to.equal("running");
    if (found.state !== "running") return;
    const outcome = await found.running.outcome;
    expect(outcome.result.exit_code).to.equal(7);
    expect(await textOf(found.running.output)).to.equal("1\n2\n3\n4\n5\n6\n7\n8\n");
    expect(readFileSync(join(home, "starts"), "utf8")).to.equal("x\n");
    const again = await driver.reattach(of.handle, "script", {});
    expect(again).to.have.property("state", "ended");
    await remove();
  }).timeout(20_000);

  it("can still be cancelled by the next agent, and keeps its timeout without one", async () => {
    const { home, remove, driver, script } = await setup();
    const cancelled = script("sleep 100");
    const overdue = script("sleep 100", {}, 1_000);
    const agents = [cancelled, overdue].map((of) => spawnSide("run-starter", [home, JSON.stringify(of)]));
    for (const agent of agents) {
      await eventually(() => expect(agent.lines).to.include("started"));
      await agent.crash();
    }
    const found = await driver.reattach(cancelled.handle, "script", {});
    if (found.state !== "running") throw new Error(found.state);
    found.running.stop();
    expect(await found.running.outcome).to.include({ outcome: "cancelled" });
    await eventually(
      () => expect(existsSync(join(home, "runs", overdue.handle, "exit.json"))).to.equal(true),
      5_000,
    );
    const late = await driver.reattach(overdue.handle, "script", {});
    if (late.state === "not_started") throw new Error(late.state);
    const outcome = late.state === "running" ? await late.running.outcome : late.outcome;
    expect(outcome.reason).to.equal("execution_timeout");
    await remove();
  }).timeout(20_000);

  it("is lost with effect unknown when its supervisor was killed too, and what is left of it is stopped", async () => {
    const { home, remove, driver, script, folder } = await setup();
    const of = script(`echo $$ > ${home}/pid; sleep 100`);
    const agent = spawnSide("run-starter", [home, JSON.stringify(of)]);
    await eventually(() => expect(readFileSync(join(home, "pid"), "utf8")).to.match(/\d+\n/));
    await agent.crash();
    const record = JSON.parse(readFileSync(join(folder(of), "supervisor.json"), "utf8"));
    const { pid } = z.object({ pid: z.number() }).parse(record);
    process.kill(pid, "SIGKILL");
    await eventually(() => expect(readProcess(pid)).to.equal(undefined));
    const found = await driver.reattach(of.handle, "script", {});
    expect(found.state === "ended" && found.outcome).to.include({
      reason: "supervisor_lost",
      effect: "unknown",
    });
    expect(readProcess(pidIn(join(home, "pid")))).to.equal(undefined);
    await remove();
  }).timeout(20_000);

  it("is proved not started by whoever looks first, and can never start afterwards", async () => {
    const { home, remove, driver, script } = await setup();
    const of = script(`echo x >> ${home}/starts`);
    expect(await driver.reattach(of.handle, "script", {})).to.deep.equal({ state: "not_started" });
    expect(await driver.start(of).catch(refusal)).to.be.instanceOf(AlreadyStarted);
    expect(await driver.reattach(of.handle, "script", {})).to.deep.equal({ state: "not_started" });
    expect(existsSync(join(home, "starts"))).to.equal(false);
    await remove();
  });

  it("is started at most once wherever between spawning and starting the agent dies", async () => {
    const { home, remove, driver, script } = await setup();
    for (let round = 0; round < 12; round++) {
      const starts = join(home, `starts-${round}`);
      const of = script(`echo x >> ${starts}`);
      const agent = spawnSide("run-starter", [home, JSON.stringify(of)]);
      await new Promise((resolve) => agent.child.once("spawn", resolve));
      const until = performance.now() + 80 + Math.random() * 160;
      await eventually(() => expect(performance.now()).to.be.greaterThan(until), 2_000);
      await agent.crash();
      const found = await driver.reattach(of.handle, "script", {});
      if (found.state === "running") await found.running.outcome;
      if (found.state === "not_started") expect(existsSync(starts)).to.equal(false);
      else expect(readFileSync(starts, "utf8")).to.equal("x\n");
    }
    await remove();
  }).timeout(60_000);
});

describe("a run on a full disk", () => {
  it("goes on to its end; what could not be kept is counted, and exit code and checksum are still there", async () => {
    const { home, remove, driver, script } = await setup();
    const of = script("seq 1 600000; exit 5");
    const agent = spawnSide("run-starter", [home, JSON.stringify(of)], 400_000);
    await eventually(() => expect(agent.lines).to.include("ended"), 15_000);
    const found = await driver.reattach(of.handle, "script", {});
    if (found.state !== "ended") throw new Error(found.state);
    expect(found.outcome.result.exit_code).to.equal(5);
    const totals = found.outcome.result.output?.stdout;
    expect(totals).to.include({ bytes_total: 4_088_895, truncated: true });
    expect(totals?.bytes_kept).to.be.within(400_000, 1_000_000);
    expect((await textOf(found.output)).startsWith("1\n2\n3\n")).to.equal(true);
    await remove();
  }).timeout(30_000);
});

describe("file.put and file.get", () => {
  it("write a file whole with its mode and read it back with the same hash", async () => {
    const { home, remove, work, run } = await setup();
    const path = join(home, "a", "b", "file");
    const content = Buffer.from([0, 255, 10, 13]);
    const put = { path, content_base64: content.toString("base64"), mode: "0600", create_parents: true };
    const { outcome } = await run(work("file.put", put));
    expect(outcome).to.include({ outcome: "succeeded", effect: "applied" });
    expect(statSync(path).mode & 0o777).to.equal(0o600);
    const got = (await run(work("file.get", { path }))).outcome.result.data;
    expect(got).to.include({ content_base64: put.content_base64, bytes: 4, mode: "0600" });
    expect(got?.["sha256"]).to.equal(outcome.result.data?.["sha256"]);
    await remove();
  });

  it("change nothing, with effect none, when the hash differs or the folder is missing", async () => {
    const { home, remove, work, run } = await setup();
    const put = { path: join(home, "no", "file"), content_base64: "aGk=" };
    const wrong = await run(work("file.put", { ...put, path: join(home, "file"), sha256: "0".repeat(64) }));
    expect(wrong.outcome).to.include({ outcome: "failed", effect: "none" });
    const nowhere = await run(work("file.put", put));
    expect(nowhere.outcome).to.include({ outcome: "failed", effect: "none" });
    expect(readdirSync(home)).to.deep.equal(["runs"]);
    await remove();
  });

  it("refuse to read what is too large, no file, or a pipe that nobody writes", async () => {
    const { home, remove, work, run } = await setup();
    for (const params of [{ path: home }, { path: "/dev/null" }, { path: "/etc/passwd", max_bytes: 3 }]) {
      expect((await run(work("file.get", params))).outcome).to.include({ outcome: "failed", effect: "none" });
    }
    await remove();
  });

  it("tell after a crash whether the file was written, by its content", async () => {
    const { home, remove, driver, work, run } = await setup();
    const of = work("file.put", { path: join(home, "file"), content_base64: "aGk=" });
    const note = driver.note(of);
    const before = await driver.reattach(of.handle, "file.put", note);
    expect(before.state === "ended" && before.outcome.reason).to.equal("agent_restarted");
    await run(of);
    const after = await driver.reattach(of.handle, "file.put", note);
    expect(after.state === "ended" && after.outcome).to.include({ outcome: "succeeded", effect: "applied" });
    await remove();
  });
});
