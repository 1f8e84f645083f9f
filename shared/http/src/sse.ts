import type { ServerResponse } from "node:http";

export interface SseEvent {
  /** Comes back as Last-Event-ID when the client reconnects. */
  readonly id?: string;
  readonly event?: string;
  /** Sent as JSON. */
  readonly data: unknown;
}

/** A server-sent event stream (WHATWG HTML §9.2) to one client. */
export interface SseStream {
  readonly lastEventId: string | undefined;
  /** Aborted when the client is gone or the server drains: stop sending and return. */
  readonly signal: AbortSignal;
  /** Resolves once the client took it, false when the stream is over. */
  send(event: SseEvent): Promise<boolean>;
}

export interface SseLimits {
  readonly keepAliveMs: number;
  /** A client that takes nothing for so long is cut. */
  readonly stallMs: number;
}

/** How long a client waits before it reconnects: in normal life, and after a drain. */
const retryMs = 2_000;
const drainRetryMs = 500;

export class OpenSseStream implements SseStream {
  readonly lastEventId: string | undefined;
  readonly #response: ServerResponse;
  readonly #limits: SseLimits;
  readonly #over = new AbortController();
  readonly #keepAlive: NodeJS.Timeout;

  constructor(response: ServerResponse, lastEventId: string | undefined, limits: SseLimits) {
    this.#response = response;
    this.#limits = limits;
    this.lastEventId = lastEventId;
    response.statusCode = 200;
    response.setHeader("content-type", "text/event-stream; charset=utf-8");
    response.setHeader("x-accel-buffering", "no");
    response.write(`retry: ${retryMs}\n\n`);
    this.#keepAlive = setInterval(() => {
      if (!response.writableNeedDrain) response.write(": keep-alive\n\n");
    }, limits.keepAliveMs);
    this.#keepAlive.unref();
    response.once("close", () => this.#finish());
  }

  get signal(): AbortSignal {
    return this.#over.signal;
  }

  async send(event: SseEvent): Promise<boolean> {
    if (this.#over.signal.aborted) return false;
    if (this.#response.write(sseText(event))) return true;
    return this.#drained();
  }

  /** Ends by itself with its handler; on drain with a hint to reconnect soon. */
  end(reason: "done" | "draining"): void {
    if (this.#over.signal.aborted) return;
    this.#finish();
    this.#response.end(reason === "draining" ? `retry: ${drainRetryMs}\n: draining\n\n` : undefined);
  }

  #finish(): void {
    clearInterval(this.#keepAlive);
    this.#over.abort();
  }

  #drained(): Promise<boolean> {
    return new Promise((resolve) => {
      const settle = (ok: boolean) => {
        clearTimeout(timer);
        this.#response.off("drain", onDrain);
        this.#over.signal.removeEventListener("abort", onOver);
        resolve(ok);
      };
      const onDrain = () => settle(true);
      const onOver = () => settle(false);
      const timer = setTimeout(() => {
        this.#response.destroy();
        settle(false);
      }, this.#limits.stallMs);
      this.#response.once("drain", onDrain);
      this.#over.signal.addEventListener("abort", onOver, { once: true });
    });
  }
}

/** Fields of one event; JSON has no bare line breaks, so one data line is enough. */
export function sseText(event: SseEvent): string {
  for (const field of [event.id, event.event]) {
    if (field !== undefined && /[\r\n\0]/.test(field)) throw new Error("an event's id and name are one line");
  }
  const id = event.id === undefined ? "" : `id: ${event.id}\n`;
  const name = event.event === undefined ? "" : `event: ${event.event}\n`;
  return `${id}${name}data: ${JSON.stringify(event.data)}\n\n`;
}
