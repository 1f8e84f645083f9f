import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { MusterError } from "@muster/contracts/errors";
import { eventually, eventuallyHolds } from "@muster/testing/eventually";
import { expect } from "chai";
import { after, before, describe, it } from "mocha";
import { z } from "zod";
import { ask, ended, inState, outputOf, read } from "../following.ts";
import { makeCanary } from "./canary.ts";
import { openWorld, readFiles, readTables, surroundingsOf, type Host, type World } from "./world.ts";

/** Tells its secret in every way that is masked, then goes on as asked. */
const tells = (more: string) => `
printf 'plain:%s\\n' "$PASSWORD"
printf '%s' "$PASSWORD" | base64
printf 'user:%s' "$PASSWORD" | base64 -w0 >&2; echo >&2
printf '%s' "$PASSWORD" | base64 -w0 | tr '+/' '-_'; echo
python3 -c 'import os, urllib.parse as u; p = os.environ["PASSWORD"]; print(u.quote(p, safe="")); print(u.quote_plus(p))'
cat
cat "$MUSTER_SECRETS_DIR/key" >&2
echo core:$(ulimit -c)
${more}`;

/** What a supervisor writes of itself. */
const supervisor = z.object({ pid: z.number() });

const quick = {
  MUSTER_RELIABILITY_SWEEP_INTERVAL_MS: "1000",
  MUSTER_RELIABILITY_AUDIT_INTERVAL_MS: "1000",
  MUSTER_VMOPS_DISPATCHED_MAX_MS: "15000",
  MUSTER_VMOPS_DISPATCH_MAX_REQUEUES: "1",
};

describe("a secret", function () {
  this.timeout(400_000);
  const canary = makeCanary();
  let world: World;
  let host: Host;
  let secretId: string;

  before(async () => {
    world = await openWorld({ canary, env: { reliability: quick, "vm-ops": quick } });
    host = await world.install("host");
    secretId = await world.keep("db_password", canary.value);
    await world.bind(secretId, { vm_uuid: host.vm }, { env: "PASSWORD" });
    const other = await world.keep("from_stdin", canary.value);
    await world.bind(other, { vm_uuid: host.vm }, { stdin: true });
    const file = await world.keep("in_a_file", canary.value);
    await world.bind(file, { vm_uuid: host.vm }, { file: "key" });
  });
  after(async () => {
    host?.agent.process.signal("SIGCONT");
    await world?.close();
  });

  const command = (more: string, vm = host.vm) => ({
    vm_uuid: vm,
    action: "script" as const,
    params: {
      interpreter: "bash",
      text: tells(more),
      secrets: ["secret://db_password", "secret://from_stdin#value", "secret://in_a_file@1"],
    },
    timeout_seconds: 60,
  });

  /** That it got there: seven of its forms are masked, and none is shown. */
  async function isMasked(id: string): Promise<void> {
    const { stdout, stderr } = await outputOf(world.client, id);
    const text = `${stdout.toString()}${stderr.toString()}`;
    expect(text).to.include("plain:***").and.to.include("core:0");
    expect(text.match(/\*\*\*/g)?.length).to.be.greaterThanOrEqual(8);
    expect(canary.formsIn(text)).to.deep.equal([]);
  }

  /** All that anybody could find of it, and where. */
  async function leaks(): Promise<string[]> {
    const { system, client } = world;
    const found = [...world.heard];
    const look = (where: string, bytes: Buffer | string) => {
      for (const form of canary.formsIn(bytes)) found.push(`${form} in ${where}`);
    };
    for (const [table, rows] of await readTables(system.adminDatabaseUrl)) look(table, rows);
    for (const [path, bytes] of await readFiles(system.folder)) look(path, bytes);
    for (const one of [...Object.values(system.services), ...system.agents.map(({ process }) => process)]) {
      if (one.ended) continue;
      look(`surroundings of ${one.name}`, await surroundingsOf(one.pid));
      look(
        `metrics of ${one.name}`,
        await fetch(`${one.internalUrl}/metrics`).then((answer) => answer.text()),
      );
    }
    const seen = [
      await client.listCommands(),
      await client.listSecrets(),
      await client.listBindings(),
      await client.listLeases(),
      await client.listDeadLetters(),
      await client.listSecretVersions({ params: { id: secretId } }),
    ];
    for (const { data } of seen) look("an answer", JSON.stringify(data));
    return found;
  }

  /** Of a run: what is kept of it in memory, as files. */
  const inMemory = async (id: string) =>
    (await readdir("/dev/shm", { recursive: true })).filter((name) => name.includes(id));

  it("reaches its command by environment, stdin and file, and is masked in whatever is said of it", async () => {
    const id = await ask(world.client, command("exit 0"));
    expect(await ended(world.client, id, 60_000)).to.include({ state: "succeeded", exit_code: 0 });
    await isMasked(id);
    expect(await inMemory(id)).to.deep.equal([]);
    const { data } = await world.client.listLeases({ query: { command_id: id } });
    expect(data.leases).to.have.length(3);
    await eventuallyHolds(async () => {
      const after = await world.client.listLeases({ query: { command_id: id } });
      expect(after.data.leases.map(({ state }) => state)).to.deep.equal(["ended", "ended", "ended"]);
    });
  });

  it("is masked too where the command fails, and where it kills itself and would leave its memory behind", async () => {
    const failed = await ask(world.client, command("exit 3"));
    expect(await ended(world.client, failed, 60_000)).to.include({ state: "failed", exit_code: 3 });
    await isMasked(failed);
    const aborted = await ask(world.client, command("kill -ABRT $$"));
    expect(await ended(world.client, aborted, 60_000)).to.include({
      state: "failed",
      reason: "killed_by_signal",
    });
    await isMasked(aborted);
  });

  it("is seen by its program alone while it runs, and outlives a kill of its agent no longer than its run", async () => {
    const id = await ask(world.client, command("sleep 20; exit 0"));
    await inState(world.client, id, "running");
    await eventually(async () => (await inMemory(id)).length > 0, 30_000);
    host.agent.process.signal("SIGKILL");
    await eventually(() => Promise.resolve(host.agent.process.ended));
    host.agent.process.start();
    await host.agent.process.ready();
    expect(await ended(world.client, id, 90_000)).to.include({ state: "succeeded", attempt: 1 });
    await isMasked(id);
    expect(await inMemory(id)).to.deep.equal([]);
  });

  it("is gone too where the supervisor of its program is killed", async () => {
    const id = await ask(world.client, command("sleep 60; exit 0"));
    await inState(world.client, id, "running");
    await eventually(async () => (await inMemory(id)).length > 0, 30_000);
    const record = await readFile(join(host.home, "runs", `${id}.1`, "supervisor.json"), "utf8");
    process.kill(supervisor.parse(JSON.parse(record)).pid, "SIGKILL");
    const end = await ended(world.client, id, 90_000);
    expect(end).to.include({ state: "failed", reason: "supervisor_lost", attempt: 1 });
    await eventuallyHolds(async () => expect(await inMemory(id)).to.deep.equal([]));
  });

  it("is not in what is dead-lettered, and is given to the run of an operator's replay", async () => {
    host.agent.process.signal("SIGSTOP");
    const id = await ask(world.client, command("exit 0"));
    await inState(world.client, id, "dead_lettered", 90_000);
    const letter = await eventually(async () => {
      const { data } = await world.client.listDeadLetters({ query: { state: "open", kind: "command" } });
      return data.dead_letters.find((one) => one.command_id === id);
    }, 15_000);
    const { data } = await world.client.listLeases({ query: { command_id: id } });
    expect(data.leases).to.deep.equal([]);
    host.agent.process.signal("SIGCONT");
    await world.client.replayDeadLetter({ params: { id: letter.id } });
    expect(await ended(world.client, id, 90_000)).to.include({ state: "succeeded", effect: "applied" });
    await isMasked(id);
  });

  it("is read back by whoever may, by nobody else, and is nowhere when it was replaced and deleted", async () => {
    const params = { id: secretId };
    expect((await world.reader.readSecret({ params })).data.secret.material).to.deep.equal({
      value: canary.value,
    });
    const refusal: unknown = await world.client.readSecret({ params }).catch((error: unknown) => error);
    expect(refusal).to.be.instanceOf(MusterError).and.to.have.property("code", "FORBIDDEN");
    const rotated = await world.client.rotateSecret({ params, body: { generate: {} } });
    expect(rotated.data.version.version).to.equal(2);
    const old = await world.reader.readSecret({ params, query: { version: 1 } });
    expect(old.data.secret.material).to.deep.equal({ value: canary.value });
    const { data } = await world.client.listSecrets();
    for (const { id } of data.secrets) await world.client.deleteSecret({ params: { id } });
    const gone: unknown = await world.reader.readSecret({ params }).catch((error: unknown) => error);
    expect(gone).to.have.property("code").that.is.oneOf(["SECRET_NOT_FOUND", "SECRET_VERSION_NOT_FOUND"]);
    const id = await ask(world.client, command("exit 0"));
    const refused = await ended(world.client, id, 60_000);
    expect(refused).to.include({ state: "failed", reason: "secret_refused", effect: "none" });
    expect((await read(world.client, id)).result?.error).to.include("SECRET_NOT_BOUND");
  });

  it("was, through all of that, in no table, file, log, metric, answer, environment, and on no connection", async () => {
    expect(world.passed()).to.be.greaterThan(100_000);
    expect(await leaks()).to.deep.equal([]);
  });
});
