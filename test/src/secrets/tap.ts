import { connect, createServer, type AddressInfo } from "node:net";

/** A link to a server that lets everything pass and shows it. */
export interface Tap {
  /** The target's URL, through the tap. */
  readonly url: string;
  /** Bytes that have passed, both ways. */
  readonly passed: number;
  close(): Promise<void>;
}

/** `listen` makes who looks at one way of one connection. */
export async function openTap(targetUrl: string, listen: () => (chunk: Buffer) => void): Promise<Tap> {
  const target = new URL(targetUrl);
  let passed = 0;
  const open = new Set<() => void>();
  const server = createServer((near) => {
    const far = connect(Number(target.port), target.hostname);
    const end = () => {
      near.destroy();
      far.destroy();
      open.delete(end);
    };
    open.add(end);
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      const look = listen();
      from.on("data", (chunk: Buffer) => {
        passed += chunk.length;
        look(chunk);
      });
      from.on("error", end);
      from.pipe(to);
      from.on("close", end);
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = new URL(targetUrl);
  url.hostname = "127.0.0.1";
  url.port = String((server.address() as AddressInfo).port);
  return {
    url: url.href,
    get passed() {
      return passed;
    },
    close: () => {
      for (const end of open) end();
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
}
