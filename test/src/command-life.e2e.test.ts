import { createHash } from "node:crypto";
import { after, before, describe, it } from "mocha";
import { expect } from "chai";
import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import { eventuallyHolds } from "@muster/testing/eventually";
import { ask, ended, historyOf, inState, outputOf, shell } from "./following.ts";
import { openSystem, type System } from "./system.ts";

describe("a command over HTTP, through every process", function () {
  this.timeout(60_000);
  let system: System;
  let vm: string;
  let lonelyVm: string;

  before(async () => {
    system = await openSystem({ env: { reliability: { MUSTER_RELIABILITY_SWEEP_INTERVAL_MS: "1000" } } });
    vm = await system.registerVm("served", 4);
    lonelyVm = await system.registerVm("without an agent");
    await system.startAgent({ vmUuids: [vm], name: "agent" });
  });
  after(async () => await system?.close());

  it("runs, streams its output, and tells exit code, effect, times and history", async () => {
    const id = await ask(system.client, shell(vm, "echo out; echo err >&2; exit 3"));
    const events = [];
    for await (const event of system.client.follow(id)) events.push(event);
    const last = events.at(-1);
    expect(last?.event).to.equal("end");
    expect(last?.data).to.include({
      state: "failed",
      reason: "exit_nonzero",
      exit_code: 3,
      effect: "unknown",
    });

    const command = await ended(system.client, id);
    expect(command.result).to.include({ exit_code: 3, signal: null });
    expect(Date.parse(command.finished_at!)).to.be.at.least(Date.parse(command.accepted_at));
    const output = await outputOf(system.client, id);
    expect(output.stdout.toString()).to.equal("out\n");
    expect(output.stderr.toString()).to.equal("err\n");
    expect(command.result!.output!.stdout).to.deep.include({
      bytes_total: 4,
      truncated: false,
      sha256: createHash("sha256").update("out\n").digest("hex"),
    });
    expect(await historyOf(system.client, id)).to.deep.equal([
      "->queued:accepted",
      "queued>dispatched:doorbell_confirmed",
      "dispatched>running:claimed",
      "running>failed:exit_nonzero",
    ]);
  });

  it("shows output while the command still runs", async () => {
    const id = await ask(system.client, shell(vm, "echo first; read line < /dev/zero; sleep 30"));
    for await (const event of system.client.follow(id)) {
      if (event.event === "output" && event.data.text === "first\n") break;
      expect(event.event).to.not.equal("end");
    }
    await system.client.cancelCommand({ params: { id }, body: {} });
    await ended(system.client, id);
  });

  it("resumes the stream where it broke, without loss or repetition", async () => {
    const id = await ask(
      system.client,
      shell(vm, "i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); done"),
    );
    await ended(system.client, id);
    const whole = (await outputOf(system.client, id)).stdout.toString();
    let text = "";
    let from: string | undefined;
    for (let done = false; !done;) {
      done = true;
      for await (const event of system.client.follow(id, from === undefined ? {} : { from })) {
        if (event.event !== "output") continue;
        text += Buffer.from(event.data.data_base64, "base64").toString();
        from = event.position;
        done = false;
        break;
      }
    }
    expect(text).to.equal(whole);
  });

  it("cancels at once what nobody has claimed", async () => {
    const id = await ask(system.client, shell(lonelyVm, "true"));
    const { data } = await system.client.cancelCommand({ params: { id }, body: {} });
    expect(data.outcome).to.equal("cancelled");
    expect(data.command).to.include({ state: "cancelled", effect: "none" });
  });

  it("stops a running command that ignores TERM, and everything that it started", async () => {
    const marker = `muster-${uuidv7()}`;
    const id = await ask(
      system.client,
      shell(
        vm,
        `trap '' TERM; (setsid sh -c 'trap "" TERM; exec sleep 300' ${marker} &) ; while :; do sleep 1; done`,
      ),
    );
    await inState(system.client, id, "running");
    const { data } = await system.client.cancelCommand({ params: { id }, body: {} });
    expect(data.outcome).to.equal("requested");
    const command = await ended(system.client, id, 45_000);
    expect(command.state).to.equal("cancelled");
    expect(command.effect).to.equal("unknown");
  });

  it("answers two operators who cancel at once truthfully", async () => {
    const id = await ask(system.client, shell(vm, "sleep 60"));
    await inState(system.client, id, "running");
    const answers = await Promise.allSettled(
      [1, 2, 3].map(async () => await system.client.cancelCommand({ params: { id }, body: {} })),
    );
    for (const answer of answers) {
      if (answer.status === "fulfilled") expect(answer.value.data.outcome).to.equal("requested");
      else expect((answer.reason as MusterError).code).to.equal("TOO_LATE");
    }
    expect((await ended(system.client, id)).state).to.equal("cancelled");
    const late = await system.client.cancelCommand({ params: { id }, body: {} }).catch((e: unknown) => e);
    expect((late as MusterError).code).to.equal("TOO_LATE");
  });

  it("expires what nobody claims in time", async () => {
    const id = await ask(system.client, shell(lonelyVm, "true", { expires_in_seconds: 1 }));
    const command = await ended(system.client, id);
    expect(command).to.include({ state: "expired", reason: "delivery_timeout", effect: "none" });
  });

  it("stops what runs longer than it may", async () => {
    const id = await ask(system.client, shell(vm, "sleep 60", { timeout_seconds: 1 }));
    const command = await ended(system.client, id);
    expect(command).to.include({ state: "expired", reason: "execution_timeout", effect: "unknown" });
  });

  it("gives the first answer to the same Idempotency-Key, and names what differs in another body", async () => {
    const idempotencyKey = uuidv7();
    const body = shell(vm, "echo once");
    const answers = await Promise.all(
      Array.from({ length: 20 }, async () => await system.client.acceptCommand({ body, idempotencyKey })),
    );
    expect(new Set(answers.map((answer) => JSON.stringify(answer.data))).size).to.equal(1);
    expect(answers.filter((answer) => !answer.replayed)).to.have.length(1);
    const other = await system.client
      .acceptCommand({ body: shell(vm, "echo twice"), idempotencyKey })
      .catch((error: unknown) => error as MusterError);
    expect(other).to.be.instanceOf(MusterError);
    expect((other as MusterError).code).to.equal("IDEMPOTENCY_KEY_REUSED");
    expect((other as MusterError).details.map((detail) => detail.path).join()).to.contain("params");
  });

  it("lists by filters, page by page, each command once", async () => {
    const ids = [];
    for (let i = 0; i < 5; i++) ids.push(await ask(system.client, shell(lonelyVm, `echo ${i}`)));
    const seen: string[] = [];
    let cursor: string | undefined;
    do {
      const query = {
        vm_uuid: lonelyVm,
        state: "queued,dispatched",
        limit: 2,
        ...(cursor ? { cursor } : {}),
      };
      const page = await system.client.listCommands({ query });
      seen.push(...page.data.commands.map((command) => command.id));
      cursor = page.meta.next_cursor ?? undefined;
    } while (cursor !== undefined);
    expect(seen).to.deep.equal([...ids].reverse());
  });

  it("says what a waiting command waits for", async () => {
    const id = await ask(system.client, shell(lonelyVm, "true"));
    const { data } = await system.client.getCommand({ params: { id } });
    expect(data.command.waiting_for?.code).to.be.oneOf(["no_agent", "agent_offline", "earlier_command"]);
  });

  it("runs a script of nearly 1 MiB", async () => {
    const text = `echo begin\n${`# ${"filler ".repeat(140)}\n`.repeat(1_000)}echo end $1\n`;
    const id = await ask(system.client, { vm_uuid: vm, action: "script", params: { text, args: ["well"] } });
    expect(await ended(system.client, id)).to.include({ state: "succeeded" });
    expect((await outputOf(system.client, id)).stdout.toString()).to.equal("begin\nend well\n");
  });

  it("puts and gets a file, hashed", async () => {
    const path = `${system.folder}/put/file.bin`;
    const content = Buffer.from([0, 255, 10, 13, 128]);
    const sha256 = createHash("sha256").update(content).digest("hex");
    const put = await ask(system.client, {
      vm_uuid: vm,
      action: "file.put",
      params: { path, content_base64: content.toString("base64"), sha256, create_parents: true },
    });
    expect(await ended(system.client, put)).to.include({ state: "succeeded", effect: "applied" });
    const get = await ask(system.client, { vm_uuid: vm, action: "file.get", params: { path } });
    const command = await ended(system.client, get);
    expect(command.result?.data).to.include({ content_base64: content.toString("base64"), sha256 });
  });

  it("answers ping and probe while the work lane is full", async () => {
    const busy = [];
    for (let i = 0; i < 4; i++) busy.push(await ask(system.client, shell(vm, "sleep 60")));
    for (const id of busy) await inState(system.client, id, "running");
    for (const action of ["ping", "probe"] as const) {
      const id = await ask(system.client, { vm_uuid: vm, action });
      expect(await ended(system.client, id)).to.include({ state: "succeeded" });
    }
    for (const id of busy) await system.client.cancelCommand({ params: { id }, body: {} });
    for (const id of busy) await ended(system.client, id);
  });

  it("keeps the first and last MiB of endless output, says what was cut, and ends on cancel", async () => {
    const id = await ask(system.client, shell(vm, "yes 0123456789"));
    await eventuallyHolds(async () => {
      const { data } = await system.client.readOutput({ params: { id } });
      if (data.chunks.length === 0) throw new Error("no output yet");
    }, 20_000);
    await system.client.cancelCommand({ params: { id }, body: {} });
    const command = await ended(system.client, id);
    const totals = command.result!.output!.stdout;
    expect(totals.truncated).to.equal(true);
    expect(totals.bytes_kept).to.be.at.most(2 * 1024 * 1024);
    const output = await outputOf(system.client, id);
    expect(output.stdout.length).to.be.at.most(4 * 1024 * 1024);
  });

  it("carries binary output byte by byte", async () => {
    const id = await ask(system.client, shell(vm, "head -c 100000 /dev/urandom | tee /dev/stderr"));
    const command = await ended(system.client, id);
    const output = await outputOf(system.client, id);
    expect(output.stdout.equals(output.stderr)).to.equal(true);
    expect(createHash("sha256").update(output.stdout).digest("hex")).to.equal(
      command.result!.output!.stdout.sha256,
    );
  });

  it("ends what waits for a VM that is retired, and takes nothing more for it", async () => {
    const doomed = await system.registerVm("doomed");
    const id = await ask(system.client, shell(doomed, "true"));
    await system.client.retireVm({ params: { vm_uuid: doomed } });
    expect(await ended(system.client, id)).to.include({
      state: "expired",
      reason: "target_gone",
      effect: "none",
    });
    const refused = await system.client
      .acceptCommand({ body: shell(doomed, "true") })
      .catch((e: unknown) => e);
    expect((refused as MusterError).code).to.equal("VM_RETIRED");
  });

  it("has one correlation id from HTTP to the agent's log", async () => {
    const correlationId = `trail-${uuidv7()}`;
    const { data } = await system.client.acceptCommand({ body: shell(vm, "true"), correlationId });
    const command = await ended(system.client, data.command.id);
    expect(command.correlation_id).to.equal(correlationId);
    for (const name of ["gateway", "vm-ops", "agent"]) {
      await eventuallyHolds(async () => expect(await system.logOf(name)).to.contain(correlationId), 5_000);
    }
  });

  it("exports health, readiness by dependency, and metrics from every service", async () => {
    for (const service of Object.values(system.services)) {
      expect((await fetch(`${service.internalUrl}/healthz`)).status).to.equal(200);
      const ready = (await (await fetch(`${service.internalUrl}/readyz`)).json()) as object;
      expect(JSON.stringify(ready)).to.contain("broker");
      const metrics = await (await fetch(`${service.internalUrl}/metrics`)).text();
      expect(metrics)
        .to.match(/nodejs_eventloop_lag/)
        .and.to.match(/muster_/);
      expect(metrics).to.not.contain(system.tenantId).and.not.contain(vm);
    }
  });
});
