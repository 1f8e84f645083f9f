import { createServer, type Server } from "node:net";
import { createClient } from "@muster/client/client";
import { MusterError } from "@muster/contracts/errors";
import { eventuallyHolds } from "@muster/testing/eventually";
import { expect } from "chai";
import { after, before, describe, it } from "mocha";
import { ask, ended, inState, read, shell } from "../following.ts";
import { freePort } from "../processes.ts";
import { openWorld, type Host, type World } from "./world.ts";

const naming = (vm_uuid: string, reference: string, more: object = {}) => ({
  vm_uuid,
  action: "exec" as const,
  params: { program: "sh", args: ["-c", 'test -n "$TOKEN"'], secrets: [reference] },
  timeout_seconds: 60,
  ...more,
});

describe("a command that names a secret", function () {
  this.timeout(240_000);
  let world: World;
  let web: Host;
  let database: Host;

  before(async () => {
    world = await openWorld();
    web = await world.install("web", { labels: { role: "web" } });
    database = await world.install("database", { labels: { role: "database" } });
  });
  after(async () => await world?.close());

  async function refusalOf(vm: string, reference: string): Promise<string> {
    const id = await ask(world.client, naming(vm, reference));
    const command = await ended(world.client, id, 60_000);
    expect(command).to.include({ state: "failed", reason: "secret_refused", effect: "none" });
    return command.result?.error ?? "";
  }
  const succeeds = async (body: ReturnType<typeof naming>) =>
    expect(await ended(world.client, await ask(world.client, body), 60_000)).to.include({
      state: "succeeded",
    });

  it("gets it where it is bound to its VM, its labels or its project, and nowhere else", async () => {
    const ofVm = await world.keep("of_vm", "a value");
    await world.bind(ofVm, { vm_uuid: web.vm }, { env: "TOKEN" });
    const ofLabels = await world.keep("of_labels", "a value");
    await world.bind(ofLabels, { labels: { role: "web" } }, { env: "TOKEN" });
    const ofProject = await world.keep("of_project", "a value");
    await world.bind(ofProject, { project_id: "shop" }, { env: "TOKEN" });
    await succeeds(naming(web.vm, "secret://of_vm"));
    await succeeds(naming(web.vm, "secret://of_labels"));
    await succeeds(naming(database.vm, "secret://of_project", { project_id: "shop" }));
    // Whether there is such a secret is not told.
    for (const reference of [
      "secret://of_vm",
      "secret://of_labels",
      "secret://of_project",
      "secret://of_nobody",
    ]) {
      expect(await refusalOf(database.vm, reference)).to.include("SECRET_NOT_BOUND");
    }
  });

  it("gets it no more once the binding is gone or the secret is disabled, and again when it is enabled", async () => {
    const id = await world.keep("comes_and_goes", "a value");
    const binding = await world.bind(id, { vm_uuid: web.vm }, { env: "TOKEN" });
    const command = naming(web.vm, "secret://comes_and_goes");
    await succeeds(command);
    await world.client.disableSecret({ params: { id } });
    expect(await refusalOf(web.vm, "secret://comes_and_goes")).to.include("SECRET_DISABLED");
    await world.client.enableSecret({ params: { id } });
    await succeeds(command);
    expect(await refusalOf(web.vm, "secret://comes_and_goes@7")).to.include("SECRET_VERSION_NOT_FOUND");
    expect(await refusalOf(web.vm, "secret://comes_and_goes#other")).to.include("SECRET_FIELD_NOT_FOUND");
    await world.client.removeBinding({ params: { id: binding } });
    expect(await refusalOf(web.vm, "secret://comes_and_goes")).to.include("SECRET_NOT_BOUND");
  });

  it("gets it in place of a variable's value and of its input", async () => {
    const id = await world.keep("inline", "the value");
    await world.bind(id, { vm_uuid: web.vm }, { env: "UNUSED" });
    const text = 'test "$A" = "the value" && test "$(cat)" = "the value" && test -z "$UNUSED"';
    const params = { text, env: { A: "secret://inline" }, stdin: "secret://inline@1" };
    const command = { vm_uuid: web.vm, action: "script", params } as const;
    expect(await ended(world.client, await ask(world.client, command), 60_000)).to.include({
      state: "succeeded",
    });
  });

  it("is refused at once when what it names is no reference", async () => {
    for (const value of ["local-vault://db", "secret://", "secret://a#b#c", "secret://a@0"]) {
      const params = { text: "true", env: { A: value } };
      const asking = ask(world.client, { vm_uuid: web.vm, action: "script", params });
      const refusal: unknown = await asking.catch((error: unknown) => error);
      expect(refusal, value).to.be.instanceOf(MusterError).and.to.include({ code: "VALIDATION_FAILED" });
      expect(refusal).to.have.nested.property("details[0].path", "params.env.A");
    }
  });

  it("shows by its lease that it runs and holds it, when the secret is disabled", async () => {
    const id = await world.keep("held", "a value");
    await world.bind(id, { vm_uuid: web.vm }, { env: "TOKEN" });
    const body = naming(web.vm, "secret://held");
    body.params.args = ["-c", "sleep 30"];
    const command = await ask(world.client, body);
    await inState(world.client, command, "running");
    await eventuallyHolds(async () => {
      const { data } = await world.client.listLeases({ query: { command_id: command } });
      expect(data.leases).to.have.length(1);
    });
    const { data } = await world.client.disableSecret({ params: { id } });
    expect(data.held_by.map(({ command_id }) => command_id)).to.deep.equal([command]);
    const [lease] = data.held_by;
    const revoked = await world.client.revokeLease({ params: { id: lease?.id ?? "" } });
    expect(revoked.data.lease).to.include({ state: "revoked", command_id: command });
    await world.client.cancelCommand({ params: { id: command }, body: {} });
    expect(await ended(world.client, command, 60_000)).to.include({ state: "cancelled" });
  });
});

describe("a vault that takes connections and never answers", function () {
  this.timeout(240_000);
  let world: World;
  let host: Host;
  let hole: Server;

  before(async () => {
    const port = await freePort();
    hole = createServer((socket) => void socket.on("error", () => undefined));
    await new Promise<void>((resolve) => hole.listen(port, "127.0.0.1", resolve));
    const secrets = {
      SECRETS_VAULT: "hashicorp",
      SECRETS_VAULT_MODE: "shadow",
      MUSTER_SECRETS_VAULT_ADDR: `http://127.0.0.1:${port}`,
      MUSTER_SECRETS_VAULT_AUTH: "token",
      MUSTER_SECRETS_VAULT_TOKEN: "any",
      MUSTER_SECRETS_VAULT_TIMEOUT_MS: "1000",
    };
    world = await openWorld({ env: { secrets } });
    host = await world.install("host");
  });
  after(async () => {
    await world?.close();
    hole.close();
  });

  it("costs nothing but the commands that need it: everything else goes on, and they are told why", async () => {
    const impatient = createClient({
      baseUrl: world.system.gatewayUrl,
      token: world.system.apiKey,
      attemptsMax: 1,
    });
    const body = { name: "unreachable", material: { value: "a value" } };
    const keeping: unknown = await impatient.createSecret({ body }).catch((error: unknown) => error);
    expect(keeping).to.be.instanceOf(MusterError).and.to.include({ code: "VAULT_UNAVAILABLE" });
    expect(keeping).to.have.property("retryAfterMs").that.is.a("number");
    const waiting = await ask(world.client, naming(host.vm, "secret://unreachable"));
    const others = await Promise.all(
      [1, 2, 3, 4].map(() => ask(world.client, { vm_uuid: host.vm, action: "ping" })),
    );
    for (const id of others) expect(await ended(world.client, id)).to.include({ state: "succeeded" });
    // Nothing of that name could be kept, so that nothing is bound.
    expect(await ended(world.client, waiting, 60_000)).to.include({
      state: "failed",
      reason: "secret_refused",
    });
    const plain = await ask(world.client, shell(host.vm, "exit 0"));
    expect(await ended(world.client, plain)).to.include({ state: "succeeded" });
    expect((await read(world.client, plain)).attempt).to.equal(1);
  });
});
