import { after, before, describe, it } from "mocha";
import { expect } from "chai";
import { createClient, type Client } from "@muster/client/client";
import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import { ask, ended, shell } from "./following.ts";
import { openSystem, type System } from "./system.ts";

const codeOf = async (call: Promise<unknown>): Promise<string> =>
  await call.then(
    () => "no error",
    (error: unknown) => (error instanceof MusterError ? error.code : String(error)),
  );

describe("two tenants on one system", function () {
  this.timeout(60_000);
  let system: System;
  let other: Client;
  let vm: string;

  before(async () => {
    system = await openSystem();
    const key = await system.makeTenant("second", "owner@second.local");
    other = createClient({ baseUrl: system.gatewayUrl, token: key });
    vm = await system.registerVm();
    await system.startAgent({ vmUuids: [vm] });
  });
  after(async () => await system?.close());

  it("do not see each other's VMs, commands or agents, nor that they exist", async () => {
    const id = await ask(system.client, shell(vm, "true"));
    await ended(system.client, id);
    const strange = uuidv7();
    for (const vm_uuid of [vm, strange]) {
      expect(await codeOf(other.getVm({ params: { vm_uuid } }))).to.equal("VM_NOT_FOUND");
      expect(await codeOf(other.acceptCommand({ body: shell(vm_uuid, "true") }))).to.equal("VM_NOT_FOUND");
      expect(await codeOf(other.retireVm({ params: { vm_uuid } }))).to.equal("VM_NOT_FOUND");
    }
    for (const command of [id, strange]) {
      const params = { id: command };
      expect(await codeOf(other.getCommand({ params }))).to.equal("COMMAND_NOT_FOUND");
      expect(await codeOf(other.listCommandEvents({ params }))).to.equal("COMMAND_NOT_FOUND");
      expect(await codeOf(other.readOutput({ params }))).to.equal("COMMAND_NOT_FOUND");
      expect(await codeOf(other.cancelCommand({ params, body: {} }))).to.equal("COMMAND_NOT_FOUND");
    }
    expect((await other.listVms()).data.vms).to.deep.equal([]);
    expect((await other.listCommands()).data.commands).to.deep.equal([]);
    expect((await other.listAgents()).data.agents).to.deep.equal([]);
  });

  it("may use the same VM id and the same Idempotency-Key, each for its own", async () => {
    await other.registerVm({ body: { vm_uuid: vm, name: "same id, other tenant" } });
    const idempotencyKey = uuidv7();
    const mine = await system.client.acceptCommand({ body: shell(vm, "echo mine"), idempotencyKey });
    const theirs = await other.acceptCommand({ body: shell(vm, "echo theirs"), idempotencyKey });
    expect(mine.data.command.id).to.not.equal(theirs.data.command.id);
    expect(theirs.replayed).to.equal(false);
    await ended(system.client, mine.data.command.id);
    const waiting = (await other.getCommand({ params: { id: theirs.data.command.id } })).data.command;
    expect(waiting.state).to.be.oneOf(["queued", "dispatched"]);
  });
});
