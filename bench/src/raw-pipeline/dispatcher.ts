import { randomUUID } from "node:crypto";
import { connect, type ChannelModel, type ConfirmChannel, type ConsumeMessage } from "amqplib";
import { Pool } from "pg";
import { Gather } from "./gather.ts";
import { byKeyOnly, claimText, deleteText, finishText, insertText } from "./tables.ts";

export const resultsQueue = "raw.results";
export const requestsQueue = "raw.requests";
export const vmQueueOf = (vm: number): string => `raw.vm.${vm}.commands`;

export interface RawCommand {
  readonly id: string;
  readonly vm: number;
  readonly payload: string;
}

interface Report {
  readonly kind: "claim" | "result";
  readonly id: string;
}

const windowMax = 100;
const resultsPrefetch = 400;

/**
 * The sending half: `dispatch` resolves when command and outbox row are committed; the message is published from
 * memory, its row deleted when it is confirmed; claims and results come back by a queue and are written in batches.
 */
export class Dispatcher {
  readonly #pool: Pool;
  readonly #model: ChannelModel;
  readonly #channel: ConfirmChannel;
  readonly #done = new Map<string, () => void>();
  readonly #insert = new Gather<RawCommand>({
    sizeMax: 100,
    inFlightMax: 2,
    send: (items) => this.#write(items),
  });
  readonly #delete = new Gather<string>({
    sizeMax: 400,
    inFlightMax: 1,
    send: async (ids) => {
      await this.#pool.query({ name: "d", text: deleteText, values: [ids] });
    },
  });
  #ready: RawCommand[] = [];
  #unconfirmed = 0;
  #reports: ConsumeMessage[] = [];
  #applying = false;
  #accepted = 0;
  #completed = 0;

  private constructor(pool: Pool, model: ChannelModel, channel: ConfirmChannel) {
    this.#pool = pool;
    this.#model = model;
    this.#channel = channel;
  }

  static async open(o: { amqpUrl: string; databaseUrl: string }): Promise<Dispatcher> {
    const pool = new Pool({ connectionString: o.databaseUrl, max: 8, options: byKeyOnly });
    const model = await connect(o.amqpUrl, { noDelay: true });
    const dispatcher = new Dispatcher(pool, model, await model.createConfirmChannel());
    const results = await model.createChannel();
    await results.prefetch(resultsPrefetch);
    await results.consume(resultsQueue, (message) => {
      if (message === null) return;
      dispatcher.#reports.push(message);
      void dispatcher.#apply(results);
    });
    return dispatcher;
  }

  get counts(): { accepted: number; completed: number } {
    return { accepted: this.#accepted, completed: this.#completed };
  }

  /** Resolves when the command is committed; `onDone` is called when its result is. */
  async dispatch(vm: number, payload: string, onDone: () => void): Promise<string> {
    const id = randomUUID();
    this.#done.set(id, onDone);
    await this.#insert.add({ id, vm, payload });
    this.#accepted += 1;
    return id;
  }

  /** Answers requests that come by the mesh, as behind a gateway. */
  async answerRequests(): Promise<void> {
    const requests = await this.#model.createChannel();
    await requests.prefetch(250);
    await requests.consume(requestsQueue, (message) => {
      if (message !== null) void this.#answer(requests, message);
    });
  }

  async #answer(channel: Awaited<ReturnType<ChannelModel["createChannel"]>>, message: ConsumeMessage) {
    const { vm, payload } = JSON.parse(message.content.toString()) as { vm: number; payload: unknown };
    const id = await this.dispatch(vm, JSON.stringify(payload), () => undefined);
    const { replyTo, correlationId } = message.properties as { replyTo: string; correlationId: string };
    channel.sendToQueue(replyTo, Buffer.from(JSON.stringify({ id, state: "accepted" })), { correlationId });
    channel.ack(message);
  }

  async #write(items: readonly RawCommand[]): Promise<void> {
    await this.#pool.query({
      name: "i",
      text: insertText,
      values: [
        items.map((one) => one.id),
        items.map((one) => one.vm),
        items.map((one) => vmQueueOf(one.vm)),
        items.map((one) => one.payload),
      ],
    });
    this.#ready.push(...items);
    this.#publish();
  }

  #publish(): void {
    while (this.#unconfirmed < windowMax) {
      const command = this.#ready.shift();
      if (command === undefined) return;
      this.#unconfirmed += 1;
      const options = { persistent: true, messageId: command.id };
      this.#channel.publish("", vmQueueOf(command.vm), Buffer.from(command.payload), options, (error) => {
        this.#unconfirmed -= 1;
        if (error === null) void this.#delete.add(command.id);
        this.#publish();
      });
    }
  }

  async #apply(channel: Awaited<ReturnType<ChannelModel["createChannel"]>>): Promise<void> {
    if (this.#applying) return;
    this.#applying = true;
    while (this.#reports.length > 0) {
      const batch = this.#reports;
      this.#reports = [];
      const reports = batch.map((message) => JSON.parse(message.content.toString()) as Report);
      const claims = reports.filter(({ kind }) => kind === "claim").map(({ id }) => id);
      const results = reports.filter(({ kind }) => kind === "result").map(({ id }) => id);
      if (claims.length > 0) await this.#pool.query({ name: "c", text: claimText, values: [claims] });
      if (results.length > 0) {
        await this.#pool.query({ name: "f", text: finishText, values: [results, results.map(() => "ok")] });
      }
      for (const message of batch) channel.ack(message);
      this.#completed += results.length;
      for (const id of results) {
        this.#done.get(id)?.();
        this.#done.delete(id);
      }
    }
    this.#applying = false;
  }

  async close(): Promise<void> {
    await this.#model.close();
    await this.#pool.end();
  }
}
