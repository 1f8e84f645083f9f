import { openBroker, type Broker } from "@muster/broker/broker";
import { prepareEvent } from "@muster/broker/prepare";
import type { PreparedMessage } from "@muster/contracts/message";
import { openDatabase, type Database, type Tx } from "@muster/database/database";
import { openInbox, type InboxMessage } from "@muster/database/inbox";
import { openOutboxRelay } from "@muster/database/outbox";
import { openLogger } from "@muster/telemetry/logger";
import { createMetrics } from "@muster/telemetry/metrics";
import { serveParent } from "../harness/child.ts";
import {
  ask,
  askers,
  context,
  event,
  openMeter,
  payload,
  schema,
  subscription,
  tenantId,
  window,
  type Rate,
  type Timed,
} from "./mesh.ts";

/** One role of a process built on the shared packages: publisher, consumer, asker, server or outbox. */
const logger = openLogger({ service: "figure", level: "warn" });
const metrics = createMetrics({ service: "figure" });
const { MUSTER_AMQP_URL = "", MUSTER_DATABASE_URL = "" } = process.env;

const broker = (publishWindowMax: number): Promise<Broker> =>
  openBroker({ url: MUSTER_AMQP_URL, name: "figure", service: "vm-ops", logger, metrics, publishWindowMax });
const database = (): Promise<Database> =>
  openDatabase({
    url: MUSTER_DATABASE_URL,
    schema,
    applicationName: "figure",
    poolMax: 6,
    statementTimeoutMs: 10_000,
    logger,
    metrics,
  });

const message = (n: number): PreparedMessage => prepareEvent(event, payload(n), { context: context() });

async function publish({ seconds }: Timed): Promise<Rate> {
  const own = await broker(window);
  const meter = openMeter(seconds);
  let n = 0;
  const publisher = async (): Promise<void> => {
    while (!meter.stopped()) {
      const verdict = await own.publish(message(n++));
      if (verdict.kind !== "routed") throw new Error(`${verdict.kind}: ${verdict.reason}`);
      meter.count();
    }
  };
  await Promise.all(Array.from({ length: window }, publisher));
  await own.close();
  return meter.over;
}

/** Puts so many distinct messages into the queue; not measured. */
async function fill({ count }: { count: number }): Promise<void> {
  const own = await broker(1_000);
  let n = 0;
  const publisher = async (): Promise<void> => {
    while (n < count) await own.publish(message(n++));
  };
  await Promise.all(Array.from({ length: 1_000 }, publisher));
  await own.close();
}

async function consume({ count, skip }: { count: number; skip: number }): Promise<Rate> {
  const own = await broker(window);
  const base = await database();
  let handled = 0;
  let startedMs = 0;
  let finish = (): void => {};
  const finished = new Promise<void>((resolve) => {
    finish = resolve;
  });
  const inbox = openInbox(base, "figure");
  const consumer = await own.subscribe(
    subscription,
    async <T>(
      messages: readonly InboxMessage[],
      work: (tx: Tx, freshIds: ReadonlySet<string>) => Promise<T>,
    ): Promise<T> => {
      const result = await inbox.runOnce(messages, work);
      handled += messages.length;
      if (startedMs === 0 && handled >= skip) {
        startedMs = performance.now();
        skip = handled;
      }
      if (handled >= count) finish();
      return result;
    },
    {
      commandFinished: async (tx, events) => {
        await tx.query(
          `INSERT INTO effects (message_id, tenant_id, command_id, vm_uuid, state, at)
           SELECT * FROM unnest($1::text[], $2::text[], $3::uuid[], $4::uuid[], $5::text[], $6::timestamptz[])`,
          [
            events.map((one) => one.id),
            events.map((one) => one.context.tenantId),
            events.map((one) => one.payload.command_id),
            events.map((one) => one.payload.vm_uuid),
            events.map((one) => one.payload.state),
            events.map((one) => one.payload.at),
          ],
          { name: "figure_effects" },
        );
      },
    },
  );
  await finished;
  const perSecond = ((handled - skip) * 1_000) / (performance.now() - startedMs);
  await consumer.close();
  await own.close();
  await base.close();
  return { perSecond };
}

async function serve(): Promise<void> {
  const own = await broker(window);
  await own.serve("vm-ops", { ask }, { ask: async (items) => items.map(({ payload: asked }) => asked) });
}

async function request({ seconds }: Timed): Promise<Rate> {
  const own = await broker(window);
  const meter = openMeter(seconds);
  let n = 0;
  const asker = async (): Promise<void> => {
    while (!meter.stopped()) {
      await own.request(ask, { n: n++, text: "x".repeat(500) }, context());
      meter.count();
    }
  };
  await Promise.all(Array.from({ length: askers }, asker));
  await own.close();
  return meter.over;
}

/** Writers that commit messages in batches, and the relay that brings them to the broker and forgets them. */
async function outbox({
  seconds,
  perCommit,
  ahead,
}: Timed & { perCommit: number; ahead: number }): Promise<Rate> {
  const own = await broker(256);
  const base = await database();
  const meter = openMeter(seconds);
  let written = 0;
  let routed = 0;
  const relay = await openOutboxRelay({
    database: base,
    publish: (prepared) => own.publish(prepared),
    onRouted: async (_tx, rows) => {
      routed += rows.length;
      meter.count(rows.length);
    },
    logger,
    metrics,
  });
  const writer = async (): Promise<void> => {
    while (!meter.stopped()) {
      if (written - routed > ahead) {
        await new Promise((resolve) => setImmediate(resolve));
        continue;
      }
      written += perCommit;
      await base.transaction({ tenants: [tenantId] }, async (tx) => {
        for (let i = 0; i < perCommit; i++) tx.publish(message(i));
      });
    }
  };
  await Promise.all(Array.from({ length: 4 }, writer));
  await relay.close();
  await own.close();
  await base.close();
  return meter.over;
}

serveParent({
  publish: (asked) => publish(asked as Timed),
  fill: (asked) => fill(asked as { count: number }),
  consume: (asked) => consume(asked as { count: number; skip: number }),
  serve: () => serve(),
  request: (asked) => request(asked as Timed),
  outbox: (asked) => outbox(asked as Timed & { perCommit: number; ahead: number }),
});
