import { mkdtemp, readFile } from "node:fs/promises";
import { join } from "node:path";
import { MusterError } from "@muster/contracts/errors";
import type { RotationView } from "@muster/contracts/rotations";
import { eventually } from "@muster/testing/eventually";
import { expect } from "chai";
import { after, before, describe, it } from "mocha";
import { ask, ended, read } from "../following.ts";
import { openWorld, type Host, type World } from "./world.ts";

describe("a rotation", function () {
  this.timeout(300_000);
  let world: World;
  let folder: string;
  const hosts: Host[] = [];

  before(async () => {
    world = await openWorld();
    folder = await mkdtemp(join(world.system.folder, "reloaded-"));
    for (const name of ["web", "worker"]) hosts.push(await world.install(name));
  });
  after(async () => await world?.close());

  const fileOf = (name: string, { vm }: Host): string => join(folder, `${name}-${vm}`);
  const inUse = (name: string, host: Host): Promise<string> => readFile(fileOf(name, host), "utf8");

  /** Takes up the secret as a daemon does on reload; it begins to use a value before it finds that it is no good. */
  const reload = (name: string, host: Host) => ({
    action: "script" as const,
    params: {
      text: `printf '%s' "$TOKEN" >'${fileOf(name, host)}' && case "$TOKEN" in bad*) exit 3;; esac`,
      secrets: [`secret://${name}`],
    },
    timeout_seconds: 60,
  });

  /** Bound to every host with its follow-up, and in use there. */
  async function keep(name: string, value: string): Promise<string> {
    const id = await world.keep(name, value);
    for (const host of hosts) {
      const follow_up = reload(name, host);
      const binding = { secret_id: id, target: { vm_uuid: host.vm }, as: { env: "TOKEN" }, follow_up };
      await world.client.createBinding({ body: binding });
      const command = await ask(world.client, { vm_uuid: host.vm, ...follow_up });
      expect(await ended(world.client, command, 60_000)).to.include({ state: "succeeded" });
      expect(await inUse(name, host)).to.equal(value);
    }
    return id;
  }

  async function over(id: string, rotation: RotationView | null): Promise<RotationView> {
    const params = { id, rotation_id: rotation?.id ?? "" };
    return await eventually(async () => {
      const { data } = await world.client.getRotation({ params });
      if (data.rotation.ended_at !== null) return data.rotation;
      throw new Error(`is ${data.rotation.state}`);
    }, 120_000);
  }

  it("has every program take up the new value", async () => {
    const id = await keep("reloads", "first");
    const { data } = await world.client.rotateSecret({
      params: { id },
      body: { material: { value: "second" } },
    });
    expect(data.rotation).to.include({ state: "running", from_version: 1, to_version: 2 });
    const rotation = await over(id, data.rotation);
    expect(rotation).to.include({ state: "succeeded", reason: null });
    for (const host of hosts) expect(await inUse("reloads", host)).to.equal("second");
    const me = (await world.client.whoami()).data.subject;
    for (const { command_id } of rotation.follow_ups)
      expect(await read(world.client, command_id ?? "")).to.include({ state: "succeeded", requested_by: me });
    const listed = await world.client.listRotations({ params: { id } });
    expect(listed.data.rotations.map((one) => one.id)).to.deep.equal([rotation.id]);
  });

  it("is taken back where a program cannot use the new value, and every program uses the old one again", async () => {
    const id = await keep("fails", "good");
    const { data } = await world.client.rotateSecret({
      params: { id },
      body: { material: { value: "bad" } },
    });
    const rotation = await over(id, data.rotation);
    expect(rotation).to.include({ state: "rolled_back", reason: "follow_up_failed" });
    const told = rotation.follow_ups.filter(({ version }) => version === 1);
    expect(told.map(({ state }) => state)).to.deep.equal(["succeeded", "succeeded"]);
    for (const host of hosts) expect(await inUse("fails", host)).to.equal("good");
    const secret = (await world.client.getSecret({ params: { id } })).data.secret;
    expect(secret.version).to.equal(1);
    const { data: back } = await world.reader.readSecret({ params: { id } });
    expect(back.secret).to.deep.include({ version: 1, material: { value: "good" } });
  });

  it("is finished, each program told once, though the service is killed right after it was answered", async () => {
    const id = await keep("survives", "first");
    const secrets = world.system.services.secrets;
    const { data } = await world.client.rotateSecret({
      params: { id },
      body: { material: { value: "second" } },
    });
    secrets.signal("SIGKILL");
    await eventually(() => Promise.resolve(secrets.ended));
    secrets.start();
    await secrets.ready();
    expect(await over(id, data.rotation)).to.include({ state: "succeeded" });
    for (const host of hosts) {
      expect(await inUse("survives", host)).to.equal("second");
      const { data: listed } = await world.client.listCommands({ query: { vm_uuid: host.vm } });
      const texts = listed.commands.filter(
        ({ accepted_at }) => accepted_at >= (data.rotation?.started_at ?? ""),
      );
      expect(texts).to.have.length(1);
    }
  });

  it("is one at a time, and has follow-ups for VMs alone", async () => {
    const id = await keep("waits", "first");
    const [host] = hosts as [Host];
    await host.agent.process.stop();
    const { data } = await world.client.rotateSecret({ params: { id }, body: { generate: {} } });
    const again = world.client.rotateSecret({ params: { id }, body: { generate: {} } });
    const refusal: unknown = await again.catch((error: unknown) => error);
    expect(refusal).to.be.instanceOf(MusterError).and.to.include({ code: "ROTATION_RUNNING" });
    // An operator who does not want to wait ends what it waits for.
    const waiting = await eventually(async () => {
      const params = { id, rotation_id: data.rotation?.id ?? "" };
      const { follow_ups } = (await world.client.getRotation({ params })).data.rotation;
      return follow_ups.find((one) => one.vm_uuid === host.vm && one.command_id !== null);
    });
    await world.client.cancelCommand({ params: { id: waiting.command_id ?? "" }, body: {} });
    expect(await over(id, data.rotation)).to.include({ state: "rolled_back" });
    host.agent.process.start();
    await host.agent.process.ready();
    const follow_up = reload("waits", host);
    const binding = { secret_id: id, target: { labels: { role: "web" } }, as: { env: "OTHER" }, follow_up };
    const refused: unknown = await world.client
      .createBinding({ body: binding })
      .catch((error: unknown) => error);
    expect(refused).to.be.instanceOf(MusterError).and.to.include({ code: "VALIDATION_FAILED" });
    expect(refused).to.have.nested.property("details[0].path", "follow_up");
  });
});
