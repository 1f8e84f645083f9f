import { expect } from "chai";
import { spawn } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { createServer } from "node:net";
import type { AddressInfo } from "node:net";
import { fileURLToPath } from "node:url";

const program = fileURLToPath(new URL("./programs/tempers.js", import.meta.url));

interface Program {
  readonly child: ChildProcess;
  readonly output: () => string;
  /** Resolves with what was matched once the output has it. */
  readonly said: (pattern: RegExp) => Promise<RegExpExecArray>;
  readonly ended: Promise<number | null>;
}

function run(env: Record<string, string>, ...args: string[]): Program {
  const child = spawn(process.execPath, [program, ...args], {
    env: { MUSTER_INTERNAL_PORT: "0", MUSTER_DRAIN_TIMEOUT_MS: "1000", ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let output = "";
  const listeners = new Set<() => void>();
  const take = (chunk: Buffer) => {
    output += chunk.toString();
    for (const listener of listeners) listener();
  };
  child.stdout.on("data", take);
  child.stderr.on("data", take);
  const ended = new Promise<number | null>((resolve) => child.once("close", (code) => resolve(code)));
  const said = (pattern: RegExp) =>
    new Promise<RegExpExecArray>((resolve, reject) => {
      const look = () => {
        const match = pattern.exec(output);
        if (match === null) return;
        listeners.delete(look);
        resolve(match);
      };
      listeners.add(look);
      void ended.then(() => reject(new Error(`ended without ${String(pattern)}:\n${output}`)));
      look();
    });
  return { child, output: () => output, said, ended };
}

async function started(env: Record<string, string>): Promise<Program & { url: string }> {
  const service = run(env);
  const port = (await service.said(/"internal_port":(\d+)/))[1];
  return { ...service, url: `http://127.0.0.1:${port}` };
}

describe("a service's life", function () {
  this.timeout(20_000);

  it("is ready only when open has resolved, tells each dependency, and stops clean in reverse order", async () => {
    const service = await started({});
    await service.said(/"msg":"ready"/);
    const ready = await fetch(`${service.url}/readyz`);
    expect(ready.status).to.equal(200);
    expect(await ready.json()).to.deep.include({
      dependencies: { first: { ok: true }, second: { ok: true } },
    });
    expect((await fetch(`${service.url}/healthz`)).status).to.equal(200);
    expect(await (await fetch(`${service.url}/metrics`)).text()).to.include("nodejs_eventloop_lag_seconds");
    expect((await fetch(`${service.url}/other`)).status).to.equal(404);
    expect((await fetch(`${service.url}/readyz`, { method: "POST" })).status).to.equal(405);
    service.child.kill("SIGTERM");
    expect(await service.ended).to.equal(0);
    expect(service.output()).to.match(/draining[^]*closed second[^]*closed first/);
  });

  it("is alive but not ready while it opens", async () => {
    const service = await started({ MUSTER_TEMPER: "never-opens" });
    expect((await fetch(`${service.url}/readyz`)).status).to.equal(503);
    expect((await fetch(`${service.url}/healthz`)).status).to.equal(200);
    service.child.kill("SIGINT");
    expect(await service.ended).to.equal(0);
  });

  it("closes what open has made when it is stopped meanwhile, and goes no further", async () => {
    const service = await started({ MUSTER_TEMPER: "slow-open" });
    service.child.kill("SIGTERM");
    expect(await service.ended).to.equal(0);
    expect(service.output()).to.include("closed late").and.include("closed first").and.not.include("went on");
  });

  it("is not ready while draining; what is stuck is cut, named, and exit 1", async () => {
    const service = await started({ MUSTER_TEMPER: "stuck-close" });
    await service.said(/"msg":"ready"/);
    service.child.kill("SIGTERM");
    await service.said(/closed second/);
    const ready = await fetch(`${service.url}/readyz`);
    expect([ready.status, ((await ready.json()) as { phase: string }).phase]).to.deep.equal([
      503,
      "draining",
    ]);
    expect(await service.ended).to.equal(1);
    expect(service.output())
      .to.include("second did not close in time and was cut")
      .and.include("closed first");
  });

  it("ends at once on a second signal", async () => {
    const service = await started({ MUSTER_TEMPER: "stuck-close", MUSTER_DRAIN_TIMEOUT_MS: "600000" });
    await service.said(/"msg":"ready"/);
    service.child.kill("SIGTERM");
    await service.said(/closed second/);
    service.child.kill("SIGTERM");
    expect(await service.ended).to.equal(1);
    expect(service.output()).to.not.include("closed first");
  });

  const failures = {
    "open-fails": "the database does not answer",
    dies: "the connection is gone for good",
    throws: "a defect",
    rejects: "a forgotten rejection",
  };
  for (const [temper, reason] of Object.entries(failures)) {
    it(`drains and exits 1 with the cause in the log: ${temper}`, async () => {
      const service = run({ MUSTER_TEMPER: temper });
      expect(await service.ended).to.equal(1);
      expect(service.output())
        .to.match(/"level":"fatal"/)
        .and.include(reason);
      expect(service.output()).to.match(/closed second[^]*closed first/);
    });
  }

  it("exits 98 when an address is in use, its own or the internal one, and says which", async () => {
    const holder = createServer();
    await new Promise<void>((resolve) => holder.listen(0, "127.0.0.1", resolve));
    const port = String((holder.address() as AddressInfo).port);
    for (const env of [
      { MUSTER_TEMPER: "address-in-use", MUSTER_BUSY_PORT: port },
      { MUSTER_INTERNAL_PORT: port },
    ]) {
      const service = run(env);
      expect(await service.ended).to.equal(98);
      expect(service.output()).to.include(`another process listens on 127.0.0.1:${port}`);
    }
    await new Promise((resolve) => holder.close(resolve));
  });

  it("exits 78 on wrong settings, all of them named", async () => {
    const service = run({ MUSTER_TEMPER: "odd", MUSTER_DRAIN_TIMEOUT_MS: "5" });
    expect(await service.ended).to.equal(78);
    expect(service.output()).to.include("MUSTER_TEMPER").and.include("MUSTER_DRAIN_TIMEOUT_MS");
  });

  it("prints its configuration with sources, without secrets, and starts nothing", async () => {
    const service = run({ MUSTER_LOG_LEVEL: "debug" }, "--print-config");
    expect(await service.ended).to.equal(0);
    expect(service.output()).to.include('MUSTER_LOG_LEVEL="debug"  # env').and.include("# default");
    expect(service.output()).to.not.include("canary").and.not.include("starting");
  });
});
