import type { Service } from "@muster/contracts/define";
import type { WorkContext } from "@muster/contracts/envelope";
import { loginName } from "@muster/contracts/senders";
import { topologyOf } from "@muster/contracts/topology";
import { createMetrics } from "@muster/telemetry/metrics";
import { openLogger } from "@muster/telemetry/logger";
import { openFaultyLink, type FaultyLink } from "@muster/testing/faults";
import { setupVhost, type Vhost } from "@muster/testing/vhost";
import { openBroker, type Broker, type BrokerOptions } from "../src/broker.ts";
import type { Runner } from "../src/subscribe.ts";
import { applyTopology } from "../src/topology-apply.ts";
import { sampleMesh } from "./sample-mesh.ts";

export const context: WorkContext = { correlationId: "test-correlation", tenantId: "acme" };
export const logger = openLogger({ service: "test", level: "silent" });

export interface Bench {
  readonly vhost: Vhost;
  /**
   * A broker of its own, closed by `close`, which logs in as its service where no other login is given; `via` goes through
   * a link that can fail, by the login of the link.
   */
  open(
    options?: Partial<BrokerOptions> & { service?: Service; login?: string; via?: FaultyLink },
  ): Promise<Broker>;
  link(login?: string): Promise<FaultyLink>;
  metric(broker: Broker, name: string, labels: Readonly<Record<string, string>>): Promise<number>;
  /** Between tests of a file: closes brokers and links, empties the queues. */
  rest(): Promise<void>;
  close(): Promise<void>;
}

/** A vhost with the sample mesh applied. */
export async function setup(): Promise<Bench> {
  const vhost = await setupVhost();
  await applyTopology(topologyOf(sampleMesh), vhost);
  const brokers = new Map<Broker, ReturnType<typeof createMetrics>>();
  const links: FaultyLink[] = [];
  const rest = async (): Promise<void> => {
    for (const link of links) link.heal();
    await Promise.all([...brokers.keys()].map((broker) => broker.close()));
    await Promise.all(links.map((link) => link.close()));
    brokers.clear();
    links.length = 0;
    for (const { name } of topologyOf(sampleMesh).queues) {
      await vhost.call("DELETE", `/queues/{vhost}/${name}/contents`);
    }
  };
  return {
    rest,
    vhost,
    open: async ({ via, login, ...options } = {}) => {
      const metrics = createMetrics({ service: "test" });
      const broker = await openBroker({
        url: via?.url ?? (await vhost.urlAs(login ?? loginName(options.service ?? "vm-ops"))),
        name: "test",
        service: "vm-ops",
        logger,
        metrics,
        drainTimeoutMs: 5_000,
        ...options,
      });
      brokers.set(broker, metrics);
      return broker;
    },
    link: async (login = loginName("vm-ops")) => {
      const link = await openFaultyLink(await vhost.urlAs(login));
      links.push(link);
      return link;
    },
    metric: async (broker, name, labels) => {
      const found = await brokers.get(broker)?.registry.getSingleMetric(name)?.get();
      const fits = (has: Partial<Record<string, string | number>>): boolean =>
        Object.entries(labels).every(([label, value]) => has[label] === value);
      return found?.values.find((value) => fits(value.labels))?.value ?? 0;
    },
    close: async () => {
      await rest();
      await vhost.destroy();
    },
  };
}

/** Remembers ids like the inbox does: recorded with the effect, forgotten when the work fails. */
export function rememberingRunner(): Runner<{ readonly effects: string[] }> & { readonly effects: string[] } {
  const known = new Set<string>();
  const effects: string[] = [];
  let turn: Promise<unknown> = Promise.resolve();
  const run = <R>(
    messages: readonly { id: string }[],
    work: (tx: { effects: string[] }, fresh: ReadonlySet<string>) => Promise<R>,
  ): Promise<R> => {
    const mine = turn.then(async () => {
      const fresh = new Set(messages.map(({ id }) => id).filter((id) => !known.has(id)));
      const tx = { effects: [] as string[] };
      const result = await work(tx, fresh);
      for (const id of fresh) known.add(id);
      effects.push(...tx.effects);
      return result;
    });
    turn = mine.catch(() => {});
    return mine;
  };
  return Object.assign(run, { effects });
}

/** A promise that a test resolves when it wants a handler to go on. */
export function gateOf(): { readonly promise: Promise<void>; readonly resolve: () => void } {
  let resolve = (): void => {};
  const promise = new Promise<void>((open) => {
    resolve = open;
  });
  return { promise, resolve };
}
