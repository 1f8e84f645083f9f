import { routes } from "@muster/contracts/routes";
import { vmOpsRequests } from "@muster/contracts/vm-ops";
import type { Handlers, RouteRequest } from "@muster/http/handler";
import type { SseStream } from "@muster/http/sse";
import type { Ask, Asked } from "../asking.ts";
import type { Identify } from "../identity/authenticate.ts";
import { followOutput } from "../output/follow.ts";
import type { LiveHints } from "../output/hints.ts";
import { placeOf, textOf } from "../output/place.ts";
import type { Place } from "../output/place.ts";
import { readAfter } from "../output/read.ts";

export interface OutputDeps {
  readonly ask: Ask;
  /** Asked before every read of a stream: a stream outlives its token, and must not outlive its right. */
  readonly identify: Identify;
  readonly hints: Pick<LiveHints, "attach">;
  readonly pollMs: number;
  readonly lingerMs: number;
}

type Request = RouteRequest<(typeof routes)["readOutput"]>;

/** However fast hints come, a stream reads no more often. */
const readIntervalMinMs = 20;
const failingMaxMs = 30_000;

export function outputHandlers(deps: OutputDeps): Pick<Handlers<typeof routes>, "readOutput"> {
  return {
    async readOutput(request) {
      const place = placeOf(request.query.cursor);
      // Read before anything is sent: what the caller may not see is 404, never an empty stream.
      const { page, to } = await readAfter(place, (cursor) => readPage(deps.ask, request, cursor, request));
      const stream = request.sse();
      if (stream === undefined) return { data: { ...page, cursor: textOf(to) } };
      await streamTo(stream, placeOf(stream.lastEventId) ?? place, request, deps);
      return undefined;
    },
  };
}

async function streamTo(
  stream: SseStream,
  place: Place | undefined,
  request: Request,
  deps: OutputDeps,
): Promise<void> {
  const { signal } = stream;
  const commandId = request.params.id;
  const waker = deps.hints.attach(commandId);
  const asViewer = async (): Promise<Asked> => {
    // A shadow stays one: it was counted when it came.
    const again = () => deps.identify({ ...request, route: routes.readOutput });
    const { token, principal } = request.token === undefined ? request : await again();
    return { context: { ...request.context, identity: token }, principal, signal, bearer: request.bearer };
  };
  let readAtMs = 0;
  try {
    await followOutput(place, {
      signal,
      pollMs: deps.pollMs,
      lingerMs: deps.lingerMs,
      failingMaxMs,
      now: () => performance.now(),
      async read(cursor) {
        readAtMs = performance.now();
        return readPage(deps.ask, request, cursor, await asViewer());
      },
      async describe() {
        return deps.ask(vmOpsRequests.getCommand, { command_id: commandId }, await asViewer());
      },
      async nextHint(timeoutMs) {
        await waker.next(timeoutMs, signal);
        const earlyMs = readIntervalMinMs - (performance.now() - readAtMs);
        if (earlyMs > 0 && !signal.aborted) await new Promise((resolve) => setTimeout(resolve, earlyMs));
      },
      send: ({ id, event, data }) => stream.send({ id, event, data }),
    });
  } catch (error) {
    // Cut off by the viewer or by our stop, a read fails as it must.
    if (!signal.aborted) throw error;
  } finally {
    waker.close();
  }
}

function readPage(ask: Ask, request: Request, cursor: string | undefined, from: Asked) {
  return ask(vmOpsRequests.readOutput, { command_id: request.params.id, cursor }, from);
}
