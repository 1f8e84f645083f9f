import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, describe, it } from "mocha";
import { expect } from "chai";
import { eventuallyHolds } from "@muster/testing/eventually";
import { ask, ended, inState, shell } from "../following.ts";
import { openSystem, serviceNames, type System } from "../system.ts";
import { openPrivateServers, type PrivateServers } from "./private-servers.ts";

interface Answer {
  readonly status: number;
  readonly code: string | undefined;
  readonly retryAfter: string | null;
}

describe("a memory alarm of the broker", function () {
  this.timeout(120_000);
  let servers: PrivateServers;
  let system: System;

  before(async () => {
    servers = await openPrivateServers();
    // reliability asks its own questions, and so hears of the alarm without a caller
    system = await openSystem({
      servers,
      env: { reliability: { MUSTER_RELIABILITY_SWEEP_INTERVAL_MS: "1000" } },
    });
  });
  after(async () => {
    try {
      await system?.close();
    } finally {
      await servers?.remove();
    }
  });

  /** As any program asks: once, and without our client. */
  async function post(vmUuid: string): Promise<Answer> {
    const response = await fetch(`${system.gatewayUrl}/api/v1/vm-ops/commands`, {
      method: "POST",
      headers: { authorization: `Bearer ${system.apiKey}`, "content-type": "application/json" },
      body: JSON.stringify(shell(vmUuid, "true")),
    });
    const body = (await response.json()) as { error?: { code: string } };
    const retryAfter = response.headers.get("retry-after");
    return { status: response.status, code: body.error?.code, retryAfter };
  }

  function expectRefused(answer: Answer): void {
    expect(answer, JSON.stringify(answer)).to.include({ status: 503 });
    expect(answer.code).to.be.oneOf(["BACKPRESSURE", "DEPENDENCY_UNAVAILABLE"]);
    expect(answer.retryAfter).to.match(/^[1-9]\d*$/);
  }

  async function expectBlocked(name: (typeof serviceNames)[number]): Promise<void> {
    const ready = await fetch(`${system.services[name].internalUrl}/readyz`);
    expect(ready.status).to.equal(503);
    expect(await ready.text()).to.include("the broker has blocked publishing");
  }

  const pids = () => serviceNames.map((name) => system.services[name].pid);

  it("is told by readiness and to callers, loses nothing that was accepted, and passes without a restart", async () => {
    const vm = await system.registerVm("alarmed", 16);
    const agent = await system.startAgent({ vmUuids: [vm] });
    const [marks, go] = [join(system.folder, "marks"), join(system.folder, "go")];
    const marked = async () => (await readFile(marks, "utf8")).trim().split("\n").sort();
    const running = await ask(
      system.client,
      shell(vm, `until test -e ${go}; do sleep 0.1; done; echo ran >> ${marks}`),
    );
    await inState(system.client, running, "running");
    const processes = [...pids(), agent.process.pid];

    await servers.control(["set_vm_memory_high_watermark", "0.00001"]);
    // the broker blocks a connection when it publishes: what comes first may still be accepted, the rest asks again
    const asking = Array.from({ length: 8 }, (_, i) =>
      ask(system.client, shell(vm, `echo asked-${i} >> ${marks}`)),
    );
    const ids = Promise.all(asking);
    ids.catch(() => {});
    try {
      await eventuallyHolds(async () => expectRefused(await post(vm)), 40_000);
      for (let i = 0; i < 20; i++) expectRefused(await post(vm));
      await expectBlocked("gateway");
      await eventuallyHolds(() => expectBlocked("reliability"), 20_000);
      await writeFile(go, "");
      await eventuallyHolds(async () => expect(await marked()).to.include("ran"), 10_000);
    } finally {
      await servers.control(["set_vm_memory_high_watermark", "absolute", "1GB"]);
    }

    await Promise.all(serviceNames.map((name) => system.services[name].ready(20_000)));
    const accepted = [running, ...(await ids)];
    const { data } = await system.client.listCommands();
    expect(data.commands.map(({ id }) => id)).to.include.members(accepted);
    for (const { id } of data.commands) {
      expect(await ended(system.client, id)).to.include({ state: "succeeded", attempt: 1 });
    }
    expect(await marked()).to.deep.equal([...Array.from({ length: 8 }, (_, i) => `asked-${i}`), "ran"]);
    expect([...pids(), agent.process.pid]).to.deep.equal(processes);
  });
});
