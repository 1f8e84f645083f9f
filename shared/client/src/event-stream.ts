/** One event of a stream, as in https://html.spec.whatwg.org/multipage/server-sent-events.html */
export interface ServerEvent {
  readonly event: string;
  readonly data: string;
  readonly id: string | undefined;
}

/** No event of ours comes near it; a server that never ends a line is cut off. */
const bufferCharsMax = 4 * 1024 * 1024;

/** Reads an event stream piece by piece; comments and unknown fields are skipped, `retry:` is kept. */
export class EventStreamReader {
  retryMs: number | undefined;
  readonly #decoder = new TextDecoder("utf-8");
  #rest = "";
  #event = "";
  #data: string[] = [];
  #id: string | undefined;

  /** The events that these bytes complete. Throws when one grows beyond its bound. */
  push(bytes: Uint8Array): ServerEvent[] {
    const events: ServerEvent[] = [];
    this.#rest += this.#decoder.decode(bytes, { stream: true });
    if (this.#rest.length > bufferCharsMax) throw new Error("an event of the stream is too large");
    const lines = this.#rest.split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop() ?? "";
    for (const line of lines) {
      if (line !== "") this.#field(line);
      else if (this.#data.length > 0) events.push(this.#take());
      else this.#event = "";
    }
    return events;
  }

  #field(line: string): void {
    const colon = line.indexOf(":");
    if (colon === 0) return;
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "event") this.#event = value;
    else if (name === "data") this.#data.push(value);
    else if (name === "id" && !value.includes("\0")) this.#id = value;
    else if (name === "retry" && /^[0-9]{1,6}$/.test(value)) this.retryMs = Number(value);
  }

  #take(): ServerEvent {
    const event = { event: this.#event || "message", data: this.#data.join("\n"), id: this.#id };
    this.#event = "";
    this.#data = [];
    return event;
  }
}
