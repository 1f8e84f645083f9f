import { connect, type Socket } from "node:net";

export interface HttpLoad {
  readonly url: string;
  /** Sent in turn. */
  readonly bodies: readonly string[];
  readonly headers: Readonly<Record<string, string>>;
  readonly connections: number;
  readonly seconds: number;
}

export interface HttpLoadResult {
  readonly perSecond: number;
  readonly byStatus: Readonly<Record<string, number>>;
}

/** The least that a client can do: each connection sends a request when the last one is answered. */
export async function loadHttp(o: HttpLoad): Promise<HttpLoadResult> {
  const { hostname, port, pathname } = new URL(o.url);
  const extra = Object.entries(o.headers).map(([name, value]) => `${name}: ${value}\r\n`);
  const requests = o.bodies.map((body) =>
    Buffer.from(
      `POST ${pathname} HTTP/1.1\r\nhost: ${hostname}:${port}\r\ncontent-type: application/json\r\n` +
        `content-length: ${Buffer.byteLength(body)}\r\n${extra.join("")}\r\n${body}`,
    ),
  );
  const byStatus: Record<string, number> = {};
  const startedMs = performance.now();
  const untilMs = startedMs + o.seconds * 1_000;
  let next = 0;
  const one = (): Promise<void> =>
    new Promise((resolve, reject) => {
      const socket: Socket = connect(Number(port), hostname);
      socket.setNoDelay(true);
      const send = (): void => {
        if (performance.now() >= untilMs) socket.end(resolve);
        else socket.write(requests[next++ % requests.length] ?? "");
      };
      const reader = readResponses((status) => {
        byStatus[status] = (byStatus[status] ?? 0) + 1;
        send();
      });
      socket.on("connect", send);
      socket.on("data", reader);
      socket.on("error", reject);
    });
  await Promise.all(Array.from({ length: o.connections }, one));
  const accepted = byStatus["202"] ?? 0;
  return { perSecond: (accepted * 1_000) / (performance.now() - startedMs), byStatus };
}

/** Reads responses that have a content-length, as every JSON answer has; calls with the status of each. */
export function readResponses(onResponse: (status: string) => void): (chunk: Buffer) => void {
  let left = "";
  return (chunk) => {
    left += chunk.toString("latin1");
    for (;;) {
      const end = left.indexOf("\r\n\r\n");
      if (end < 0) return;
      const length = /\r\ncontent-length: (\d+)/i.exec(left.slice(0, end))?.[1];
      if (length === undefined) throw new Error(`a response without a length: ${left.slice(0, end)}`);
      const whole = end + 4 + Number(length);
      if (left.length < whole) return;
      const status = left.slice(9, 12);
      left = left.slice(whole);
      onResponse(status);
    }
  };
}
