import { agentOutput, itemsPerReportMax, outputChunkBytesMax } from "@muster/contracts/agents";
import { streamNames, type StreamName } from "@muster/contracts/commands";
import type { PayloadInputOf, ReplyOf } from "@muster/contracts/define";
import { fullJitterMs } from "@muster/broker/waiting";
import type { Logger } from "@muster/telemetry/logger";
import type { OutputSource } from "../drivers/driver.ts";
import { handleOf, type AttemptKey } from "../journal/records.ts";
import { Alarm } from "../session/alarm.ts";
import { SessionClosed, type Session } from "../session/session.ts";

type Chunk = PayloadInputOf<typeof agentOutput>["chunks"][number];
type Verdict = ReplyOf<typeof agentOutput>["items"][number];

interface Flow {
  readonly key: AttemptKey;
  readonly handle: string;
  readonly token: string;
  readonly stream: StreamName;
  readonly source: OutputSource;
  offset: number;
  refusals: number;
}

export interface Sending {
  readonly key: AttemptKey;
  readonly token: string;
  readonly source: OutputSource;
}

const messageDataBytesMax = 512 * 1024;
const lookMs = 100;
const idleMs = 60_000;
const refusalsMax = 20;
const backoff = { baseMs: 500, maxMs: 30_000 } as const;

/**
 * Follows captured output and sends it in chunks, of many commands in one message, as fast as the mesh asks for.
 * It reads from disk what it sends, so a mesh that is away costs no memory; nothing waits for it.
 */
export class OutputSender {
  readonly #session: Pick<Session, "report">;
  readonly #logger: Logger;
  readonly #onComplete: (key: AttemptKey) => void;
  readonly #alarm = new Alarm();
  #flows: Flow[] = [];
  #turn = 0;
  #closed = false;

  /** `onComplete`: the mesh has all of an attempt's output, or will not take it. */
  constructor(o: {
    session: Pick<Session, "report">;
    logger: Logger;
    onComplete: (key: AttemptKey) => void;
  }) {
    this.#session = o.session;
    this.#logger = o.logger;
    this.#onComplete = o.onComplete;
  }

  start(): void {
    void this.#run();
  }

  add({ key, token, source }: Sending): void {
    const handle = handleOf(key);
    for (const stream of streamNames) {
      this.#flows.push({ key, handle, token, stream, source, offset: 0, refusals: 0 });
    }
    this.#alarm.ring();
  }

  /** The attempt's result was refused for good: so is its output. */
  drop(key: AttemptKey): void {
    this.#flows = this.#flows.filter((flow) => flow.handle !== handleOf(key));
  }

  /** There is something new to look at, such as the end of a run. */
  nudge(): void {
    this.#alarm.ring();
  }

  async #run(): Promise<void> {
    for (let failures = 0; !this.#closed;) {
      let paceMs = 0;
      let sent = false;
      try {
        const batch = await this.#gather();
        if (batch.length > 0) paceMs = await this.#send(batch);
        sent = batch.length > 0;
        failures = 0;
      } catch (error) {
        if (error instanceof SessionClosed) return;
        this.#logger.debug({ err: error }, "output was not taken; it is sent again");
        paceMs = fullJitterMs(++failures, backoff.baseMs, backoff.maxMs) + lookMs;
      }
      await this.#rest(paceMs, sent);
    }
  }

  /** New output may cut a wait for output, never the pace that the mesh asked for. */
  async #rest(paceMs: number, sent: boolean): Promise<void> {
    const until = performance.now() + paceMs;
    if (!sent) await this.#alarm.sleep(this.#flows.length > 0 ? lookMs : idleMs);
    for (let left = paceMs; left > 0 && !this.#closed; left = until - performance.now()) {
      await this.#alarm.sleep(left);
    }
  }

  /** At most one chunk of each stream, starting where the last message left off so that none starves. */
  async #gather(): Promise<{ flow: Flow; chunk: Chunk }[]> {
    const batch: { flow: Flow; chunk: Chunk }[] = [];
    const flows = [...this.#flows.slice(this.#turn), ...this.#flows.slice(0, this.#turn)];
    let bytes = 0;
    let looked = 0;
    for (const flow of flows) {
      if (batch.length === itemsPerReportMax || bytes + outputChunkBytesMax > messageDataBytesMax) break;
      looked += 1;
      const piece = await this.#read(flow);
      if (piece === undefined) continue;
      bytes += piece.data.length;
      const { commandId, attempt } = flow.key;
      batch.push({
        flow,
        chunk: {
          ...{ command_id: commandId, attempt, token: flow.token, stream: flow.stream },
          ...{ offset: piece.offset, data_base64: piece.data.toString("base64"), last: piece.last },
        },
      });
    }
    this.#turn = this.#flows.length === 0 ? 0 : (this.#turn + looked) % this.#flows.length;
    return batch;
  }

  async #read(flow: Flow): Promise<{ offset: number; data: Buffer; last: boolean } | undefined> {
    try {
      return await flow.source.read(flow.stream, flow.offset, outputChunkBytesMax);
    } catch (error) {
      this.#logger.warn({ err: error, handle: flow.handle }, "captured output cannot be read");
      this.#end(flow);
      return undefined;
    }
  }

  /** Answers how long to wait before the next message. */
  async #send(batch: { flow: Flow; chunk: Chunk }[]): Promise<number> {
    const reply = await this.#session.report(agentOutput, (session) => ({
      session,
      chunks: batch.map(({ chunk }) => chunk),
    }));
    for (const { flow, chunk } of batch) {
      const verdict = reply.items.find(
        (item) =>
          item.command_id === chunk.command_id &&
          item.attempt === chunk.attempt &&
          item.stream === chunk.stream,
      );
      if (verdict !== undefined) this.#settle(flow, chunk, verdict);
    }
    return reply.paused ? Math.max(reply.next_interval_ms, lookMs) : reply.next_interval_ms;
  }

  #settle(flow: Flow, chunk: Chunk, verdict: Verdict): void {
    const end = chunk.offset + Buffer.byteLength(chunk.data_base64, "base64");
    const moved = verdict.next_offset !== flow.offset;
    flow.offset = verdict.next_offset;
    if (verdict.accepted) {
      flow.refusals = 0;
      if (chunk.last && verdict.next_offset >= end) this.#end(flow);
      return;
    }
    flow.refusals += 1;
    if (moved && flow.refusals < refusalsMax) return;
    this.#logger.warn({ handle: flow.handle, stream: flow.stream }, "the mesh takes no more of this output");
    this.#end(flow);
  }

  #end(flow: Flow): void {
    this.#flows = this.#flows.filter((one) => one !== flow);
    if (!this.#flows.some((one) => one.handle === flow.handle)) this.#onComplete(flow.key);
  }

  close(): Promise<void> {
    this.#closed = true;
    this.#alarm.ring();
    return Promise.resolve();
  }
}
