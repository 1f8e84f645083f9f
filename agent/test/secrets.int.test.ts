import { createHash } from "node:crypto";
import { existsSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { MusterError, type ErrorCode } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import { makeBoxKey, seal } from "@muster/sealing/box";
import { eventually } from "@muster/testing/eventually";
import { expect } from "chai";
import { describe, it } from "mocha";
import { installAgent } from "./agent-process.ts";
import { filesBelow } from "./memory.ts";
import { setupMesh } from "./scripted-mesh.ts";
import { installPairedAgent } from "./scripted-secrets.ts";

const reference = "secret://db_password";
const forms = (value: string): string[] => [
  ...[value, encodeURIComponent(value), Buffer.from(value).toString("base64")],
  ...[Buffer.from(value).toString("base64url"), Buffer.from(value).toString("hex")],
];

async function setup(o: Parameters<typeof setupMesh>[0] = {}) {
  const mesh = await setupMesh(o);
  const agent = await installPairedAgent(mesh);
  const canary = `canary-${uuidv7()}`;
  agent.secrets.values.set(reference, { value: canary, as: { env: "DB_PASSWORD" } });
  const path = (name: string): string => join(agent.home, name);
  const result = async (id: string) => {
    await eventually(() => mesh.resultOf(id) !== undefined, 20_000);
    const found = mesh.resultOf(id);
    if (found === undefined) throw new Error("a result went away");
    return found;
  };
  return {
    ...{ mesh, agent, secrets: agent.secrets, canary, path, result },
    /** A script that says that it was started, with this in its environment. */
    submit: (params: Record<string, unknown> = { env: { A: reference } }, vm = 0) =>
      mesh.submit("script", { text: `touch ${path("started")}`, ...params }, vm),
    started: () => existsSync(path("started")),
    clean: async () => {
      await agent.remove();
      await mesh.close();
    },
  };
}

const unavailable = (retryAfterMs = 50) => new MusterError("VAULT_UNAVAILABLE", undefined, { retryAfterMs });

describe("a command that names secrets", function () {
  this.timeout(60_000);

  it("has them by env, stdin and file; they are masked on their way and in no file, log or message", async () => {
    const { mesh, agent, secrets, canary, result, clean } = await setup();
    secrets.values.set("secret://in", { value: `${canary}-in`, as: { env: "UNUSED" } });
    secrets.values.set("secret://file#key@2", { value: `${canary}-file`, as: { file: "key" } });
    const one = agent.start();
    const text = `for value in "$A" "$(cat)" "$(cat "$MUSTER_SECRETS_DIR/key")" "$DB_PASSWORD"; do
      printf %s "$value" | md5sum; echo "<$value>"; printf %s "$value" | base64; done`;
    const id = await mesh.submit("script", {
      ...{ text, env: { A: reference }, stdin: "secret://in" },
      secrets: ["secret://file#key@2", reference],
    });
    const done = await result(id);
    expect(done).to.include({ outcome: "succeeded", effect: "applied" });
    await eventually(() => mesh.seen.outputEnds.has(`${id}.stdout`));
    const out = mesh.outputOf(id);
    for (const value of [canary, `${canary}-in`, `${canary}-file`]) {
      expect(out).to.include(createHash("md5").update(value).digest("hex"));
    }
    expect(out.match(/<\*\*\*>/g)).to.have.length(4);
    expect(secrets.questions).to.have.length(1);
    expect(await one.stop()).to.equal(0);
    const said = [out, one.log(), JSON.stringify([mesh.seen, secrets.questions, done])];
    const kept = filesBelow(agent.home).map((file) => readFileSync(file, "latin1"));
    expect(
      kept.some((bytes) => bytes.includes(id)),
      "the journal was looked at",
    ).to.equal(true);
    for (const form of forms(canary)) {
      for (const text of [...said, ...kept]) expect(text.includes(form), form).to.equal(false);
    }
    expect(readdirSync(agent.memory)).to.deep.equal([]);
    await clean();
  });

  it("is not started when they are refused: it fails with the code and the references, and the next goes on", async () => {
    const { mesh, agent, secrets, submit, started, result, clean } = await setup();
    agent.start();
    const codes: ErrorCode[] = [
      ...([
        "SECRET_NOT_BOUND",
        "SECRET_DISABLED",
        "SECRET_VERSION_NOT_FOUND",
        "SECRET_FIELD_NOT_FOUND",
      ] as const),
      ...(["SECRET_LEASE_USED", "SECRET_LEASE_EXPIRED", "AGENT_KEY_UNKNOWN", "VAULT_REFUSED"] as const),
    ];
    for (const code of codes) {
      secrets.script.answer = () => Promise.resolve(new MusterError(code));
      const refused = await result(await submit());
      expect(refused, code).to.include({ outcome: "failed", reason: "secret_refused", effect: "none" });
      expect(refused.result.error).to.include(code).and.include(reference);
    }
    expect(secrets.questions).to.have.length(codes.length);
    expect(started()).to.equal(false);
    await result(await mesh.submitScript("true"));
    await clean();
  });

  it("is not started by an answer that is sealed to another key, about another attempt, or of other secrets", async () => {
    const { agent, secrets, submit, started, result, clean } = await setup();
    agent.start();
    const resolved = (of: string) =>
      Buffer.from(JSON.stringify([{ reference: of, version: 1, value: "v", as: { env: "A" } }]));
    const about = "muster.secrets.attempt:another";
    const boxes: ((x: string, usual: string) => Promise<string>)[] = [
      () => seal(resolved(reference), { x: makeBoxKey().x, about }),
      (x) => seal(resolved(reference), { x, about }),
      (_x, usual) => Promise.resolve(`${usual.slice(0, -4)}AAAA`),
    ];
    for (const box of boxes) {
      secrets.script.answer = async (question, usual) => {
        const answer = await usual();
        if (answer instanceof MusterError) return answer;
        return { ...answer, sealed: await box(question.x, answer.sealed) };
      };
      expect(await result(await submit())).to.include({ outcome: "failed", reason: "secret_refused" });
    }
    expect(started()).to.equal(false);
    await clean();
  });

  it("asks again with the same nonce and key while nobody can answer, keeps its lease, and holds up no other VM", async () => {
    const { mesh, agent, secrets, submit, result, clean } = await setup({ vms: 2 });
    mesh.script.leaseMs = 600;
    let answers = false;
    secrets.script.answer = (_question, usual) => (answers ? usual() : Promise.resolve(unavailable()));
    agent.start();
    const waiting = await submit();
    await eventually(() => secrets.questions.length >= 3);
    await result(await mesh.submitScript("true", 1));
    await eventually(() => mesh.seen.progress.filter((id) => id === waiting).length >= 2);
    expect(mesh.resultOf(waiting)).to.equal(undefined);
    answers = true;
    expect(await result(waiting)).to.include({ outcome: "succeeded" });
    for (const part of ["nonce", "x", "token"] as const) {
      expect(new Set(secrets.questions.map((question) => question[part])).size, part).to.equal(1);
    }
    await clean();
  });

  it("is given back, effect none, when nobody could answer in time, or vm-ops knows of no such attempt", async () => {
    const { agent, secrets, submit, started, result, clean } = await setup();
    Object.assign(agent.env, { MUSTER_AGENT_SECRETS_WAIT_MS: "500" });
    agent.start();
    for (const code of ["VAULT_UNAVAILABLE", "DEPENDENCY_UNAVAILABLE", "ATTEMPT_NOT_RUNNING"] as const) {
      secrets.script.answer = () => Promise.resolve(new MusterError(code));
      const back = await result(await submit());
      expect(back, code).to.include({ outcome: "abandoned", effect: "none" });
      expect(back.result.error).to.include(code).and.include(reference);
    }
    expect(started()).to.equal(false);
    await clean();
  });

  it("is given back when the lease of its secrets ends before its start", async () => {
    const { agent, secrets, submit, started, result, clean } = await setup();
    secrets.script.leaseMs = 1;
    agent.start();
    expect(await result(await submit())).to.include({ outcome: "abandoned", effect: "none" });
    expect(started()).to.equal(false);
    await clean();
  });

  it("is cancelled too when that is heard of between its secrets and its start", async () => {
    const { mesh, agent, secrets, submit, result, clean } = await setup();
    mesh.script.leaseMs = 60_000;
    secrets.script.answer = async ({ command_id: id }, usual) => {
      const answer = await usual();
      // The agent hears of it while it starts the program: there is nothing yet that could be stopped.
      setTimeout(() => void mesh.cancel(id), 5);
      return answer;
    };
    agent.start();
    for (let n = 0; n < 3; n++) {
      const id = await submit({ text: "sleep 600", env: { A: reference } });
      expect(await result(id)).to.include({ outcome: "cancelled" });
    }
    await clean();
  });

  it("is cancelled before its start when somebody cancels it while it waits", async () => {
    const { mesh, agent, secrets, submit, started, result, clean } = await setup();
    mesh.script.leaseMs = 60_000;
    secrets.script.answer = () => Promise.resolve(unavailable(30_000));
    agent.start();
    const id = await submit();
    await eventually(() => secrets.questions.length > 0);
    await mesh.cancel(id);
    expect(await result(id)).to.include({
      ...{ outcome: "cancelled", reason: "cancelled_before_start", effect: "none" },
    });
    expect(started()).to.equal(false);
    await clean();
  });

  it("is given back by an agent that is stopped while it waits", async () => {
    const { agent, secrets, submit, started, result, clean } = await setup();
    secrets.script.answer = () => Promise.resolve(unavailable(30_000));
    const one = agent.start();
    const id = await submit();
    await eventually(() => secrets.questions.length > 0);
    expect(await one.stop()).to.equal(0);
    agent.start();
    const back = await result(id);
    expect(back).to.include({ outcome: "abandoned", effect: "none" });
    expect(back.result.error, "said by the life that stopped").to.include("the agent was stopping");
    expect(started()).to.equal(false);
    await clean();
  });

  it("is given back by the next life of an agent that was killed while it waited: it asks no second time", async () => {
    const { mesh, agent, secrets, submit, started, result, clean } = await setup();
    secrets.script.answer = () => Promise.resolve(unavailable(30_000));
    const first = agent.start();
    const id = await submit();
    await eventually(() => secrets.questions.length > 0);
    await first.crash();
    secrets.script.answer = (_question, usual) => usual();
    agent.start();
    expect(await result(id)).to.include({ outcome: "abandoned", effect: "none" });
    expect(secrets.questions).to.have.length(1);
    expect(started()).to.equal(false);
    await result(await mesh.submitScript("true"));
    await clean();
  });

  it("runs on when its agent is killed, is found again, and stays masked; its files go with its end", async () => {
    const { mesh, agent, canary, path, result, clean } = await setup();
    const first = agent.start();
    const text = `cp "$MUSTER_SECRETS_DIR/f" /dev/null && touch ${path("on")}
      while [ ! -e ${path("go")} ]; do sleep 0.05; done; cat "$MUSTER_SECRETS_DIR/f"; echo " $A"`;
    agent.secrets.values.set("secret://file", { value: `${canary}-file`, as: { file: "f" } });
    const id = await mesh.submit("script", { text, env: { A: reference }, secrets: ["secret://file"] });
    await eventually(() => existsSync(path("on")));
    await first.crash();
    for (const file of filesBelow(agent.home))
      expect(readFileSync(file).includes(canary), file).to.equal(false);
    agent.start();
    await eventually(() => expect(mesh.seen.heartbeats.at(-1)?.running).to.deep.equal([id]));
    expect(readdirSync(agent.memory)).to.deep.equal([`${id}.1`]);
    writeFileSync(path("go"), "");
    expect(await result(id)).to.include({ outcome: "succeeded" });
    await eventually(() => mesh.outputOf(id) === "*** ***\n");
    expect(readdirSync(agent.memory)).to.deep.equal([]);
    await clean();
  });

  it("is refused by a driver that runs nothing, before anybody is asked", async () => {
    const { agent, secrets, submit, result, clean } = await setup();
    Object.assign(agent.env, { MUSTER_AGENT_DRIVERS: "echo" });
    agent.start();
    const refused = await result(await submit());
    expect(refused).to.include({ outcome: "failed", reason: "secret_refused", effect: "none" });
    expect(refused.result.error).to.include("echo");
    expect(secrets.questions).to.deep.equal([]);
    await clean();
  });

  it("is refused by an agent that was not paired, which says so", async () => {
    const mesh = await setupMesh();
    const agent = await installAgent(mesh);
    agent.start();
    const id = await mesh.submit("script", { text: "true", env: { A: reference } });
    await eventually(() => mesh.resultOf(id) !== undefined, 20_000);
    const refused = mesh.resultOf(id);
    expect(refused).to.include({ outcome: "failed", reason: "secret_refused", effect: "none" });
    expect(refused?.result.error).to.include("pair it");
    await agent.remove();
    await mesh.close();
  });
});
