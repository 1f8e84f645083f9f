import { once } from "node:events";
import * as http from "node:http";
import * as https from "node:https";
import type { AddressInfo, Socket } from "node:net";

/** What a server does to the next requests, instead of what it is for. */
export type Mood =
  | { readonly kind: "well" }
  /** Takes the request and says nothing. */
  | { readonly kind: "silent" }
  /** Closes the connection when it has read the request. */
  | { readonly kind: "cut" }
  /** Does what it is asked, then closes the connection without a word of it. */
  | { readonly kind: "deaf" }
  | {
      readonly kind: "status";
      readonly status: number;
      readonly headers?: Record<string, string>;
      readonly body?: string | Buffer;
    }
  /** Promises more than it sends. */
  | { readonly kind: "truncated" }
  | { readonly kind: "endless" }
  | { readonly kind: "no-http" };

export interface Asked {
  readonly method: string;
  readonly path: string;
  readonly query: URLSearchParams;
  readonly headers: http.IncomingHttpHeaders;
  readonly body: unknown;
}
export interface Said {
  readonly status: number;
  readonly body?: unknown;
}

export type FaultyHttp = Awaited<ReturnType<typeof openFaultyHttp>>;

/** A JSON server on this machine that can be made to fail in the ways that servers do. */
export async function openFaultyHttp(
  answer: (asked: Asked) => Said | Promise<Said>,
  o: { tls?: { key: string; certificate: string } } = {},
) {
  const state = {
    mood: { kind: "well" } as Mood,
    /** Only requests whose path has this are met by the mood. */
    moodFor: "",
    /** How many requests it lasts; then all is well. */
    moodCalls: Infinity,
    asked: [] as Asked[],
    connections: 0,
    /** Requests that it holds without an answer. */
    held: 0,
  };
  const sockets = new Set<Socket>();

  async function serve(request: http.IncomingMessage, response: http.ServerResponse): Promise<void> {
    const asked = await read(request);
    state.asked.push(asked);
    const struck = state.mood.kind !== "well" && asked.path.includes(state.moodFor);
    const mood: Mood = struck ? state.mood : { kind: "well" };
    if (struck && --state.moodCalls <= 0) state.mood = { kind: "well" };
    if (mood.kind === "well") return say(response, await answer(asked));
    if (mood.kind === "deaf") await answer(asked);
    misbehave(mood, response);
  }

  function misbehave(mood: Mood, response: http.ServerResponse): void {
    if (mood.kind === "silent") {
      state.held += 1;
      response.once("close", () => (state.held -= 1));
    } else if (mood.kind === "status") {
      response.writeHead(mood.status, { "content-type": "application/json", ...mood.headers });
      response.end(mood.body ?? '{"errors":["as it was told"]}');
    } else if (mood.kind === "truncated") {
      response.writeHead(200, { "content-type": "application/json", "content-length": "4000" });
      response.write('{"data":{"data":', () => response.destroy());
    } else if (mood.kind === "endless") {
      const more = () => {
        while (!response.destroyed && response.write("x".repeat(65_536)));
      };
      response.on("drain", more);
      more();
    } else if (mood.kind === "no-http") {
      response.socket?.end("SSH-2.0-OpenSSH_9.6\r\n");
    } else response.destroy();
  }

  const listener = (request: http.IncomingMessage, response: http.ServerResponse) => {
    serve(request, response).catch(() => response.destroy());
  };
  const { tls } = o;
  const server =
    tls === undefined
      ? http.createServer(listener)
      : https.createServer({ key: tls.key, cert: tls.certificate }, listener);
  server.on(tls === undefined ? "connection" : "secureConnection", (socket: Socket) => {
    state.connections += 1;
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  return {
    state,
    url: `${tls === undefined ? "http" : "https"}://127.0.0.1:${port}`,
    /** All requests from now on, or so many, or those whose path has `path`. */
    be(mood: Mood, more: { path?: string; calls?: number } = {}) {
      state.mood = mood;
      state.moodFor = more.path ?? "";
      state.moodCalls = more.calls ?? Infinity;
    },
    /** Ends every connection, as a restart does. */
    dropConnections() {
      for (const socket of sockets) socket.destroy();
    },
    async close() {
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  };
}

async function read(request: http.IncomingMessage): Promise<Asked> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  const text = Buffer.concat(chunks).toString();
  const url = new URL(request.url ?? "/", "http://stand-in");
  return {
    method: request.method ?? "",
    path: decodeURIComponent(url.pathname),
    query: url.searchParams,
    headers: request.headers,
    body: text === "" ? undefined : (JSON.parse(text) as unknown),
  };
}

function say(response: http.ServerResponse, { status, body }: Said): void {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(body === undefined ? undefined : JSON.stringify(body));
}
