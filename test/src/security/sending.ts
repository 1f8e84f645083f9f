import { Agent, request } from "node:http";

export interface Sent {
  readonly method: string;
  /** Path and query exactly as they go out: nothing is normalised. */
  readonly path: string;
  /** A list sends the header several times. */
  readonly headers?: Readonly<Record<string, string | readonly string[]>>;
  readonly body?: string | Buffer;
}

export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly text: string;
}

/** Sends what no client would, each request once, on kept connections. */
export interface Sender {
  send(sent: Sent): Promise<Answer>;
  close(): void;
}

export function openSender(baseUrl: string): Sender {
  const { hostname, port, host } = new URL(baseUrl);
  const agent = new Agent({ keepAlive: true, maxSockets: 8 });
  return {
    send: ({ method, path, headers = {}, body }) =>
      new Promise((resolve, reject) => {
        const lines: [string, string][] = [["host", host]];
        for (const [name, value] of Object.entries(headers)) {
          for (const one of typeof value === "string" ? [value] : value) lines.push([name, one]);
        }
        if (body !== undefined) lines.push(["content-length", String(Buffer.byteLength(body))]);
        const asked = request({ agent, hostname, port, method, path, headers: lines.flat() }, (answer) => {
          const chunks: Buffer[] = [];
          answer.on("data", (chunk: Buffer) => chunks.push(chunk));
          answer.on("error", reject);
          answer.on("end", () => {
            const text = Buffer.concat(chunks).toString();
            const got = Object.entries(answer.headers).map(([name, value]) => [name, String(value)]);
            resolve({
              status: answer.statusCode ?? 0,
              headers: Object.fromEntries(got) as Record<string, string>,
              text,
            });
          });
        });
        asked.on("error", reject);
        asked.end(body);
      }),
    close: () => agent.destroy(),
  };
}
