import { after, before, describe, it } from "mocha";
import { expect } from "chai";
import { createClient, type Client } from "@muster/client/client";
import { uuidv7 } from "@muster/contracts/ids";
import { ended, shell } from "./following.ts";
import { openSystem, type System } from "./system.ts";

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
