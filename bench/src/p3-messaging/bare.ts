import { randomUUID } from "node:crypto";
import { connect, type Channel, type ConfirmChannel, type ConsumeMessage } from "amqplib";
import pg from "pg";
import { prepareEvent } from "@muster/broker/prepare";
import { eventsExchange, requestsQueue, subscriptionQueue } from "@muster/contracts/topology";
import { serveParent } from "../harness/child.ts";
import {
  askers,
  context,
  event,
  openMeter,
  payload,
  subscription,
  window,
  type Rate,
  type Timed,
} from "./mesh.ts";

/** The same roles with the clients alone: no validation, no envelope of its own, no tracing, no metrics, no recovery. */
const { MUSTER_AMQP_URL = "", MUSTER_DATABASE_URL = "" } = process.env;
const exchange = eventsExchange(event.owner);
const queue = subscriptionQueue(subscription);
const replyTo = "amq.rabbitmq.reply-to";

/** As long as a message of ours, made once. */
const body = Buffer.from(prepareEvent(event, payload(0), { context: context() }).body);
const properties = { persistent: true, mandatory: true, contentType: "application/json" } as const;

async function publish({ seconds }: Timed): Promise<Rate> {
  const connection = await connect(MUSTER_AMQP_URL, { noDelay: true });
  const channel = await connection.createConfirmChannel();
  const meter = openMeter(seconds);
  let n = 0;
  const next = (): void => {
    if (meter.stopped()) return;
    channel.publish(
      exchange,
      event.name,
      body,
      { ...properties, messageId: String(n++) },
      (error: Error | null) => {
        if (error !== null) throw error;
        meter.count();
        next();
      },
    );
  };
  for (let i = 0; i < window; i++) next();
  const rate = await meter.over;
  await channel.waitForConfirms();
  await connection.close();
  return rate;
}

interface Ended {
  readonly command_id: string;
  readonly vm_uuid: string;
  readonly state: string;
  readonly at: string;
}

/** Ids and effects of a batch: two statements, one transaction. */
async function writeDown(client: pg.Client, messages: readonly ConsumeMessage[]): Promise<void> {
  const events = messages.map(
    (message) => JSON.parse(message.content.toString()) as { id: string; tenantid: string; data: Ended },
  );
  const ids = events.map((one) => one.id);
  await client.query("BEGIN");
  await client.query({
    name: "ids",
    text: "INSERT INTO bare_inbox (consumer, message_id) SELECT $1, unnest($2::text[]) ON CONFLICT DO NOTHING",
    values: ["figure", ids],
  });
  await client.query({
    name: "effects",
    text: `INSERT INTO bare_effects (message_id, tenant_id, command_id, vm_uuid, state, at)
      SELECT * FROM unnest($1::text[], $2::text[], $3::uuid[], $4::uuid[], $5::text[], $6::timestamptz[])`,
    values: [
      ids,
      events.map((one) => one.tenantid),
      events.map((one) => one.data.command_id),
      events.map((one) => one.data.vm_uuid),
      events.map((one) => one.data.state),
      events.map((one) => one.data.at),
    ],
  });
  await client.query("COMMIT");
}

async function consume({ count, skip }: { count: number; skip: number }): Promise<Rate> {
  const connection = await connect(MUSTER_AMQP_URL, { noDelay: true });
  const channel = await connection.createChannel();
  const client = new pg.Client(MUSTER_DATABASE_URL);
  await client.connect();
  await channel.prefetch(subscription.prefetch);
  let handled = 0;
  let startedMs = 0;
  let busy = false;
  let pending: ConsumeMessage[] = [];
  const rate = await new Promise<Rate>((resolve, reject) => {
    const work = async (): Promise<void> => {
      busy = true;
      while (pending.length > 0) {
        const batch = pending.slice(0, subscription.batch.sizeMax);
        pending = pending.slice(batch.length);
        await writeDown(client, batch);
        channel.ack(batch.at(-1)!, true);
        handled += batch.length;
        if (startedMs === 0 && handled >= skip) {
          startedMs = performance.now();
          skip = handled;
        }
      }
      busy = false;
      if (handled >= count) {
        resolve({ perSecond: ((handled - skip) * 1_000) / (performance.now() - startedMs) });
      }
    };
    channel
      .consume(queue, (message) => {
        if (message === null) return;
        pending.push(message);
        // What came in one turn of the event loop is one batch.
        if (!busy) {
          busy = true;
          setImmediate(() => void work().catch(reject));
        }
      })
      .catch(reject);
  });
  await client.end();
  await connection.close();
  return rate;
}

async function serve(): Promise<void> {
  const connection = await connect(MUSTER_AMQP_URL, { noDelay: true });
  const channel = await connection.createChannel();
  await channel.prefetch(250);
  await channel.consume(requestsQueue("vm-ops"), (message) => {
    if (message === null) return;
    const asked = JSON.parse(message.content.toString()) as unknown;
    channel.sendToQueue(message.properties.replyTo as string, Buffer.from(JSON.stringify(asked)), {
      correlationId: message.properties.correlationId as string,
    });
    channel.ack(message);
  });
}

async function request({ seconds }: Timed): Promise<Rate> {
  const connection = await connect(MUSTER_AMQP_URL, { noDelay: true });
  const channel: Channel = await connection.createChannel();
  const waiting = new Map<string, () => void>();
  await channel.consume(
    replyTo,
    (message) => {
      if (message === null) return;
      JSON.parse(message.content.toString());
      const id = message.properties.correlationId as string;
      waiting.get(id)?.();
      waiting.delete(id);
    },
    { noAck: true },
  );
  const meter = openMeter(seconds);
  let n = 0;
  const asker = async (): Promise<void> => {
    while (!meter.stopped()) {
      const correlationId = String(n++);
      const asked = Buffer.from(JSON.stringify({ n, text: "x".repeat(500) }));
      const reply = new Promise<void>((resolve) => waiting.set(correlationId, resolve));
      channel.sendToQueue(requestsQueue("vm-ops"), asked, { correlationId, replyTo, persistent: true });
      await reply;
      meter.count();
    }
  };
  await Promise.all(Array.from({ length: askers }, asker));
  await connection.close();
  return meter.over;
}

/** Multi-row inserts, each published after its commit; rows of confirmed messages are deleted in batches. */
async function outbox({
  seconds,
  perCommit,
  ahead,
}: Timed & { perCommit: number; ahead: number }): Promise<Rate> {
  const connection = await connect(MUSTER_AMQP_URL, { noDelay: true });
  const channel: ConfirmChannel = await connection.createConfirmChannel();
  const pool = new pg.Pool({ connectionString: MUSTER_DATABASE_URL, max: 6 });
  const meter = openMeter(seconds);
  const text = body.toString();
  let written = 0;
  let routed = 0;
  let inFlight = 0;
  let done: string[] = [];
  const committed: string[] = [];
  const pump = (): void => {
    while (inFlight < 256) {
      const id = committed.shift();
      if (id === undefined) return;
      inFlight += 1;
      channel.publish(exchange, event.name, body, { ...properties, messageId: id }, (error: Error | null) => {
        if (error !== null) throw error;
        inFlight -= 1;
        done.push(id);
        pump();
      });
    }
  };
  const forget = async (): Promise<void> => {
    while (!meter.stopped() || written > routed) {
      const ids = done;
      done = [];
      if (ids.length === 0) await new Promise((resolve) => setImmediate(resolve));
      else {
        await pool.query({
          name: "forget",
          text: "DELETE FROM bare_outbox WHERE id = ANY ($1::bigint[])",
          values: [ids],
        });
        routed += ids.length;
        meter.count(ids.length);
      }
    }
  };
  const writer = async (): Promise<void> => {
    while (!meter.stopped()) {
      if (written - routed > ahead) {
        await new Promise((resolve) => setImmediate(resolve));
        continue;
      }
      written += perCommit;
      const rows = Array.from({ length: perCommit }, () => randomUUID());
      const { rows: fresh } = await pool.query<{ id: string }>({
        name: "write",
        text: `INSERT INTO bare_outbox (message_id, routing_key, body)
          SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) RETURNING id`,
        values: [rows, rows.map(() => event.name), rows.map(() => text)],
      });
      for (const row of fresh) committed.push(row.id);
      pump();
    }
  };
  await Promise.all([forget(), ...Array.from({ length: 4 }, writer)]);
  await pool.end();
  await connection.close();
  return meter.over;
}

serveParent({
  publish: (asked) => publish(asked as Timed),
  consume: (asked) => consume(asked as { count: number; skip: number }),
  serve: () => serve(),
  request: (asked) => request(asked as Timed),
  outbox: (asked) => outbox(asked as Timed & { perCommit: number; ahead: number }),
});
