import { services, type Service } from "@muster/contracts/define";
import { queueScopes, reportScope } from "@muster/contracts/broker-tokens";
import { uuidv7 } from "@muster/contracts/ids";
import { agentVmsMax } from "@muster/contracts/pairing";
import { meshWith } from "@muster/contracts/mesh";
import { agentPermissions } from "@muster/contracts/permissions";
import { agentLoginName, loginName, logins } from "@muster/contracts/senders";
import {
  agentsExchange,
  eventsExchange,
  requestsExchange,
  topologyOf,
  vmQueue,
} from "@muster/contracts/topology";
import { brokerToken, noBrokerKey } from "@muster/testing/broker-token";
import { setupVhost, type Vhost } from "@muster/testing/vhost";
import { connect, type Channel, type ChannelModel } from "amqplib";
import { expect } from "chai";
import { after, before, describe, it } from "mocha";
import { replyCodeOf } from "../src/queues.ts";
import { applyTopology } from "../src/topology-apply.ts";
import { ensureLogins, ensureUser, urlFor, type BrokerUser } from "../src/users.ts";

const mesh = meshWith({ type: "classic", deliveryLimit: 2, lengthMax: 100 });
const topology = topologyOf(mesh);
const requests = Object.values(mesh.requests).flatMap((group) => Object.values(group));
const accessRefused = 403;

/** What may be asked of the broker about one queue, and what an exchange takes. */
const queueVerbs = {
  get: (channel: Channel, queue: string) => channel.get(queue, { noAck: false }),
  consume: (channel: Channel, queue: string) => channel.consume(queue, () => undefined),
  purge: (channel: Channel, queue: string) => channel.purgeQueue(queue),
  declare: (channel: Channel, queue: string) => channel.assertQueue(queue),
  bind: (channel: Channel, queue: string) => channel.bindQueue(queue, "muster.agents", "#"),
  unbind: (channel: Channel, queue: string) => channel.unbindQueue(queue, "muster.agents", "no.such"),
  delete: (channel: Channel, queue: string) => channel.deleteQueue(queue),
} as const;
type QueueVerb = keyof typeof queueVerbs;
const exchangeVerbs = {
  declare: (channel: Channel, exchange: string) => channel.assertExchange(exchange, "topic"),
  delete: (channel: Channel, exchange: string) => channel.deleteExchange(exchange),
  bind: (channel: Channel, exchange: string) => channel.bindExchange(exchange, "muster.live", "#"),
} as const;

describe("the broker", function () {
  this.timeout(120_000);
  const [mine, theirs, foreign] = [uuidv7(), uuidv7(), uuidv7()];
  const queues = {
    mine: vmQueue("acme", mine),
    theirs: vmQueue("acme", theirs),
    foreign: vmQueue("other", foreign),
  };
  const agent = { tenantId: "acme", agentId: uuidv7(), vmUuids: [mine] };
  let vhost: Vhost;
  let users: Record<string, BrokerUser>;
  const opened: ChannelModel[] = [];

  before(async () => {
    vhost = await setupVhost();
    await applyTopology(topology, vhost);
    users = await ensureLogins(vhost, mesh, (login) => vhost.newUser(loginName(login)));
    users["agent"] = {
      ...vhost.newUser(agentLoginName(agent.agentId)),
      permissions: agentPermissions(agent),
    };
    await ensureUser(vhost, users["agent"]);
    const admin = await connect(vhost.amqpUrl);
    opened.push(admin);
    const channel = await admin.createChannel();
    for (const queue of Object.values(queues)) {
      await channel.assertQueue(queue, { durable: true, arguments: { "x-single-active-consumer": true } });
    }
  });
  after(async () => {
    for (const model of opened) await model.close().catch(() => undefined);
    await vhost?.destroy();
  });

  async function logIn(user: string): Promise<ChannelModel> {
    const model = await connect(urlFor(vhost.amqpUrl, users[user]!));
    model.on("error", () => undefined);
    opened.push(model);
    return model;
  }

  const scopesOf = ({ tenantId, agentId, vmUuids }: typeof agent): string[] => {
    const named = { vhost: vhost.name, tenantId, agentId };
    return [reportScope(named), ...queueScopes(named, vmUuids)];
  };

  async function logInByToken(): Promise<ChannelModel> {
    const name = agentLoginName(agent.agentId);
    const model = await connect(
      urlFor(vhost.amqpUrl, { name, password: brokerToken(name, scopesOf(agent)) }),
    );
    model.on("error", () => undefined);
    opened.push(model);
    return model;
  }

  /** Whether the broker refuses it; any other answer means that it would have been done. */
  async function refused(
    model: ChannelModel,
    work: (channel: Channel) => Promise<unknown>,
  ): Promise<boolean> {
    const channel = await model.createChannel();
    channel.on("error", () => undefined);
    try {
      await work(channel);
    } catch (error) {
      return replyCodeOf(error) === accessRefused;
    }
    await channel.close().catch(() => undefined);
    return false;
  }

  function publishRefused(model: ChannelModel, exchange: string, key: string): Promise<boolean> {
    return new Promise((resolve, reject) => {
      model.createConfirmChannel().then((channel) => {
        channel.on("error", (error) => resolve(replyCodeOf(error) === accessRefused));
        channel.publish(exchange, key, Buffer.from("x"), {}, (error) => {
          if (error === null) channel.close().then(() => resolve(false), reject);
        });
      }, reject);
    });
  }

  const allQueues = (): string[] => [...topology.queues.map(({ name }) => name), ...Object.values(queues)];
  const allExchanges = (): string[] => topology.exchanges.map(({ name }) => name);

  /** Every verb on every queue; answers the pairs that the broker does not refuse. */
  async function allowedOnQueues(model: ChannelModel): Promise<string[]> {
    const allowed: string[] = [];
    for (const queue of allQueues()) {
      for (const verb of Object.keys(queueVerbs) as QueueVerb[]) {
        if (!(await refused(model, (channel) => queueVerbs[verb](channel, queue)))) {
          allowed.push(`${verb} ${queue}`);
        }
      }
    }
    return allowed.sort();
  }

  async function allowedOnExchanges(model: ChannelModel): Promise<string[]> {
    const allowed: string[] = [];
    for (const exchange of allExchanges()) {
      for (const [verb, work] of Object.entries(exchangeVerbs)) {
        if (!(await refused(model, (channel) => work(channel, exchange))))
          allowed.push(`${verb} ${exchange}`);
      }
    }
    return allowed;
  }

  /** Keys that mean something, at each exchange and at the default one; answers what is not refused. */
  async function allowedToPublish(model: ChannelModel): Promise<string[]> {
    const reports = mesh.reports.flatMap((queue) => Object.values(queue.reports));
    const keysAt = (exchange: string): string[] => {
      if (exchange === "") return allQueues();
      if (exchange === requestsExchange) return requests.map(({ name }) => name);
      if (exchange === agentsExchange) {
        return [
          ...reports.map(({ report }) => `agents.${agent.tenantId}.${agent.agentId}.${report}`),
          `agents.${agent.tenantId}.${uuidv7()}.claim`,
          `agents.other.${agent.agentId}.claim`,
        ];
      }
      const events = mesh.events.filter(({ owner }) => exchange === eventsExchange(owner));
      return [...events.map(({ name }) => name), uuidv7(), "vm-ops.requests"];
    };
    const allowed: string[] = [];
    for (const exchange of ["", ...allExchanges()]) {
      for (const key of keysAt(exchange)) {
        if (!(await publishRefused(model, exchange, key))) allowed.push(`${exchange} ${key}`);
      }
    }
    return allowed;
  }

  const reading = (names: readonly string[]): string[] =>
    names.flatMap((name) => [`consume ${name}`, `get ${name}`, `purge ${name}`]).sort();

  for (const by of ["a password", "a token"]) {
    it(`lets an agent with ${by} read its own VM's queue and report under its own name, and refuses it everything else`, async function () {
      if (by === "a token" && noBrokerKey !== undefined) this.skip();
      const model = await (by === "a token" ? logInByToken() : logIn("agent"));
      expect(await allowedOnQueues(model)).to.deep.equal(reading([queues.mine]));
      expect(await allowedOnExchanges(model)).to.deep.equal([]);
      const reports = mesh.reports.flatMap((queue) => Object.values(queue.reports));
      expect(await allowedToPublish(model)).to.deep.equal(
        reports.map(({ report }) => `muster.agents agents.${agent.tenantId}.${agent.agentId}.${report}`),
      );
    });
  }

  it("takes no token that is for another audience, by another key, or another name's, and no other user_id", async function () {
    if (noBrokerKey !== undefined) this.skip();
    const [scope] = scopesOf(agent);
    const login = agentLoginName(agent.agentId);
    const good = brokerToken(login, [scope ?? ""]);
    const [head, body] = good.split(".");
    const bad = [
      brokerToken(login, [scope ?? ""], { audience: "muster" }),
      `${head}.${body}.${"A".repeat(86)}`,
      "",
    ];
    for (const password of bad) {
      const outcome = connect(urlFor(vhost.amqpUrl, { name: login, password }));
      expect(await outcome.then(() => "in", String)).to.match(/403|ACCESS_REFUSED/);
    }
    const model = await connect(urlFor(vhost.amqpUrl, { name: login, password: good }));
    opened.push(model);
    model.on("error", () => undefined);
    const key = `agents.${agent.tenantId}.${agent.agentId}.claim`;
    const sent = (userId: string) =>
      new Promise<string>((resolve, reject) => {
        model.createConfirmChannel().then((channel) => {
          channel.on("error", (error) => resolve(String(replyCodeOf(error))));
          channel.publish(agentsExchange, key, Buffer.from("x"), { userId }, (error) => {
            if (error === null) resolve("taken");
          });
        }, reject);
      });
    expect(await sent(login)).to.equal("taken");
    expect(await sent(agentLoginName(uuidv7()))).to.equal("406");
  });

  it("takes a token for as many queues as an agent may have, in place of the one that it logged in with", async function () {
    if (noBrokerKey !== undefined) this.skip();
    const vmUuids = [...Array.from({ length: agentVmsMax - 1 }, () => uuidv7()), mine];
    const login = agentLoginName(agent.agentId);
    const [report = "", ...scopes] = scopesOf({ ...agent, vmUuids });
    const model = await connect(
      urlFor(vhost.amqpUrl, { name: login, password: brokerToken(login, [report]) }),
    );
    opened.push(model);
    model.on("error", () => undefined);
    const reads = (channel: Channel) => channel.get(queues.mine, { noAck: false });
    expect(await refused(model, reads), "before").to.equal(true);
    await model.updateSecret(Buffer.from(brokerToken(login, [report, ...scopes])), "all of it");
    expect(await refused(model, reads), "after").to.equal(false);
  });

  const ownOf = (service: Service): string[] =>
    topology.queues
      .filter(({ owner, role }) => (role === "consumed" ? owner === service : false))
      .map(({ name }) => name);
  const parked = topology.queues.filter(({ role }) => role === "parking").map(({ name }) => name);

  for (const service of services.filter((one) => one !== "vm-ops")) {
    it(`lets ${service} read its own queues, and declare, bind and delete nothing that others use`, async () => {
      const model = await logIn(service);
      const own = [...ownOf(service), ...(service === "reliability" ? parked : [])];
      expect(await allowedOnQueues(model)).to.deep.equal(reading(own));
      expect(await allowedOnExchanges(model)).to.deep.equal([]);
    });
  }

  it("lets the gateway ask what its routes ask, and publish nothing else", async () => {
    const asked = requests.filter(({ callers }) => callers.includes("gateway"));
    expect(await allowedToPublish(await logIn("gateway"))).to.deep.equal(
      asked.map(({ name }) => `muster.requests ${name}`),
    );
  });

  it("knows no user without a password, and none of them by another's", async () => {
    const others = [...logins, "agent"].map((login) => users[login]!);
    const failures = await Promise.all(
      others.map((user, at) =>
        connect(urlFor(vhost.amqpUrl, { ...user, password: others.at(at - 1)!.password })).then(
          () => "in",
          (error: unknown) => /403|ACCESS_REFUSED/.exec(String(error))?.[0],
        ),
      ),
    );
    expect(failures).to.satisfy((all: (string | undefined)[]) =>
      all.every((one) => one !== undefined && one !== "in"),
    );
  });

  // Last: what vm-ops may do to VMs' queues is done to them.
  it("lets vm-ops make, read and delete VMs' queues, and no queue of a service", async () => {
    const model = await logIn("vm-ops");
    const vms = Object.values(queues);
    const expected = [
      ...reading([...ownOf("vm-ops"), ...vms]),
      ...vms.flatMap((name) => [`declare ${name}`, `delete ${name}`]),
    ];
    expect(await allowedOnQueues(model)).to.deep.equal(expected.sort());
    expect(await allowedOnExchanges(model)).to.deep.equal([]);
  });
});
