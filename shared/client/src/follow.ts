import { MusterError } from "@muster/contracts/errors";
import { outputEvents } from "@muster/contracts/output-stream";
import type { OutputEvent, OutputEventName } from "@muster/contracts/output-stream";
import { EventStreamReader } from "./event-stream.ts";
import type { ServerEvent } from "./event-stream.ts";
import { delayMs } from "./retry.ts";
import type { RetryOptions } from "./retry.ts";

export interface FollowOptions {
  /** Where to go on: the `position` of an event seen before. */
  readonly from?: string;
  readonly signal?: AbortSignal;
}

/** An event of a followed command. `position` goes into `from` to go on after it. */
export type FollowedEvent = OutputEvent & { readonly position: string | undefined };

export interface FollowDeps {
  /** Opens the stream after a position; throws MusterError. */
  readonly open: (from: string | undefined, signal: AbortSignal) => Promise<Response>;
  readonly retry: RetryOptions;
  /** A stream that is silent for longer (the server sends a comment well within) is opened again. */
  readonly silenceMaxMs: number;
}

/**
 * State and output of a command until its end, in order; a stream that breaks is resumed where it was.
 * Throws MusterError when the server refuses, or cannot be reached `attemptsMax` times in a row.
 */
export async function* follow(o: FollowOptions, deps: FollowDeps): AsyncGenerator<FollowedEvent, void, void> {
  let position = o.from;
  for (let failures = 0; ;) {
    let pauseMs: number | undefined;
    try {
      for await (const event of readOnce(position, o.signal, deps, (ms) => (pauseMs = ms))) {
        failures = 0;
        position = event.position ?? position;
        yield event;
        if (event.event === "end") return;
      }
      // Ended without `end`: the server drains. It said when to come back.
      failures += 1;
    } catch (error) {
      o.signal?.throwIfAborted();
      failures += 1;
      if (!(error instanceof MusterError) || !error.retriable || failures >= deps.retry.attemptsMax)
        throw error;
      pauseMs = error.retryAfterMs;
    }
    if (failures >= deps.retry.attemptsMax) {
      throw new MusterError("DEPENDENCY_UNAVAILABLE", "the output stream ends again and again without news");
    }
    await deps.retry.wait(delayMs(Math.max(1, failures), pauseMs, deps.retry.random), o.signal);
  }
}

async function* readOnce(
  from: string | undefined,
  signal: AbortSignal | undefined,
  deps: FollowDeps,
  onRetry: (ms: number) => void,
): AsyncGenerator<FollowedEvent, void, void> {
  const stop = new AbortController();
  const whole = signal === undefined ? stop.signal : AbortSignal.any([signal, stop.signal]);
  let silence: ReturnType<typeof setTimeout> | undefined;
  const heard = () => {
    clearTimeout(silence);
    silence = setTimeout(() => stop.abort(new Error("the stream fell silent")), deps.silenceMaxMs);
  };
  try {
    heard();
    const response = await deps.open(from, whole);
    const reader = new EventStreamReader();
    const body: AsyncIterable<Uint8Array> | undefined = response.body ?? undefined;
    if (body === undefined) return;
    for await (const bytes of body) {
      heard();
      for (const event of reader.push(bytes)) {
        const known = parsed(event);
        if (known !== undefined) yield known;
      }
      if (reader.retryMs !== undefined) onRetry(reader.retryMs);
    }
  } catch (error) {
    if (error instanceof MusterError) throw error;
    throw new MusterError("DEPENDENCY_UNAVAILABLE", "the output stream broke", { cause: error });
  } finally {
    clearTimeout(silence);
    stop.abort();
  }
}

/** Events of names that this client does not know yet are skipped. */
function parsed(event: ServerEvent): FollowedEvent | undefined {
  if (!isKnown(event.event)) return undefined;
  const data: unknown = JSON.parse(event.data);
  const fields = { event: event.event, data: outputEvents[event.event].parse(data), position: event.id };
  // The schema was chosen by the event's name: the pair fits.
  return fields as FollowedEvent;
}

function isKnown(name: string): name is OutputEventName {
  return Object.hasOwn(outputEvents, name);
}
