import { execFile, spawnSync } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { urlFor } from "@muster/broker/users";
import { vmOpsRequests } from "@muster/contracts/vm-ops";
import { after, before, describe, it } from "mocha";
import { expect } from "chai";
import { repository } from "./processes.ts";
import { shell } from "./following.ts";
import { openMeshCaller, type MeshCaller } from "./mesh-caller.ts";
import { openSystem, type System } from "./system.ts";

const run = promisify(execFile);
const python = "/usr/bin/python3";
const hasPika = spawnSync(python, ["-c", "import pika"]).status === 0;

describe("a peer in Python that knows only the AsyncAPI document", function () {
  this.timeout(90_000);
  let system: System;
  let vm: string;
  let caller: MeshCaller;

  before(async function () {
    if (!hasPika) {
      // Only where the package cannot be installed: an ordinary user without it.
      this.test!.parent!.title += " (skipped: Debian's python3-pika is not installed)";
      this.skip();
    }
    system = await openSystem();
    caller = await openMeshCaller(system.vhost);
    vm = await system.registerVm();
    await system.startAgent({ vmUuids: [vm], name: "agent" });
  });
  after(async () => {
    await caller?.close();
    await system?.close();
  });

  async function peer(identity: string, data: unknown): Promise<unknown[]> {
    const { stdout } = await run(python, [
      join(repository, "test/third-party/peer.py"),
      join(repository, "docs/asyncapi.json"),
      urlFor(system.amqpUrl, system.logins.gateway),
      system.amqpUrl,
      identity,
      "vm-ops.command.accept.v1",
      JSON.stringify(data),
      "vm-ops.command.finished.v1",
    ]);
    return stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as unknown);
  }

  it("publishes a request, gets its reply, and consumes the event that follows", async () => {
    const { data } = await system.client.whoami();
    const { tenant_id, subject, roles, permissions } = data;
    const who = { tenant_id, subject, roles, permissions };
    const identity = await caller.tokenFor(who, vmOpsRequests.acceptCommand);
    const [reply, event] = await peer(identity, { command: shell(vm, "exit 4") });
    expect(reply).to.have.property("ok", true);
    expect(event).to.have.nested.property("data.exit_code", 4);
    expect(event).to.have.nested.property("data.state", "failed");
    expect(event).to.have.property("tenantid", system.tenantId);
  });

  it("is refused with a typed error when it brings no valid identity", async () => {
    const [reply] = await peer("not-a-token", { command: shell(vm, "true") });
    expect(reply).to.have.property("ok", false);
    expect(reply).to.have.nested.property("error.code", "INVALID_OR_MISSING_BEARER_TOKEN");
  });
});
