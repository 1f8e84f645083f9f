import { isTerminal } from "@muster/contracts/commands";
import type { CommandDetail, OutputPage, StreamName } from "@muster/contracts/commands";
import { MusterError } from "@muster/contracts/errors";
import type { OutputEvent } from "@muster/contracts/output-stream";
import { advanced, textOf } from "./place.ts";
import type { Place } from "./place.ts";
import { readAfter } from "./read.ts";
import type { ReadPage } from "./read.ts";

export interface FollowDeps {
  readonly read: ReadPage;
  readonly describe: () => Promise<CommandDetail>;
  /** Resolves at a hint, at the latest after so long. */
  readonly nextHint: (timeoutMs: number) => Promise<void>;
  /** False when the viewer is gone. */
  readonly send: (event: OutputEvent & { readonly id: string }) => Promise<boolean>;
  readonly signal: AbortSignal;
  readonly pollMs: number;
  readonly lingerMs: number;
  /** How long reads may fail for passing reasons before the stream ends, for the viewer to come back. */
  readonly failingMaxMs: number;
  /** A clock that never jumps, in milliseconds. */
  readonly now: () => number;
}

/**
 * Sends state and output after `place` until the command has ended, the viewer is gone, or the owner stays
 * away. Every event's id is the place after it, so that any cut resumes without loss or repetition.
 */
export async function followOutput(place: Place | undefined, deps: FollowDeps): Promise<void> {
  const viewer = new Viewer(place, deps);
  let failingSinceMs: number | undefined;
  let newsAtMs = deps.now();
  while (!deps.signal.aborted) {
    let step: Step;
    try {
      step = await viewer.step(deps.now() - newsAtMs >= deps.lingerMs);
      failingSinceMs = undefined;
    } catch (error) {
      if (!(error instanceof MusterError) || !error.retriable) throw error;
      failingSinceMs ??= deps.now();
      if (deps.now() - failingSinceMs >= deps.failingMaxMs) return;
      step = "idle";
    }
    if (step === "over") return;
    if (step === "news") newsAtMs = deps.now();
    else await deps.nextHint(deps.pollMs);
  }
}

type Step = "news" | "idle" | "over";

class Viewer {
  readonly #deps: FollowDeps;
  #place: Place | undefined;
  #seen = "";
  #told = "";
  #totals: OutputPage["totals"] = null;

  constructor(place: Place | undefined, deps: FollowDeps) {
    this.#place = place;
    this.#deps = deps;
  }

  /** `late`: nothing came for long; what has ended is then told as it is. */
  async step(late: boolean): Promise<Step> {
    const { from, to, page } = await readAfter(this.#place, this.#deps.read);
    const moved = textOf(from) !== textOf(to);
    this.#totals = page.totals;
    this.#place = from;
    if (!(await this.#tellState(page))) return "over";
    for (const chunk of page.chunks) if (!(await this.#tellChunk(chunk, page.attempt))) return "over";
    for (const stream of ["stdout", "stderr"] as const) {
      if (!(await this.#tellGap(stream, to[stream], page.attempt))) return "over";
    }
    this.#place = to;
    const ended = page.complete || (late && !moved && isTerminal(page.state));
    if (ended && (await this.#tellEnd(page.complete))) return "over";
    return moved ? "news" : "idle";
  }

  /** Told when the page's state or attempt changed; reason and state as the owner has them now. */
  async #tellState(page: OutputPage): Promise<boolean> {
    const seen = `${page.attempt}:${page.state}`;
    if (seen === this.#seen) return true;
    const { state, attempt, reason } = await this.#deps.describe();
    this.#seen = seen;
    const told = `${attempt}:${state}:${reason}`;
    if (told === this.#told) return true;
    this.#told = told;
    return this.#send({ event: "state", data: { state, attempt, reason } });
  }

  async #tellChunk(chunk: OutputPage["chunks"][number], attempt: number): Promise<boolean> {
    const { stream } = chunk;
    if (!(await this.#tellGap(stream, chunk.offset, attempt))) return false;
    const all = Buffer.from(chunk.data_base64, "base64");
    const at = this.#at(stream);
    const fresh = all.subarray(at - chunk.offset);
    if (fresh.length === 0) return true;
    this.#move(stream, at + fresh.length);
    const data_base64 = fresh.length === all.length ? chunk.data_base64 : fresh.toString("base64");
    const text = asText(fresh);
    return this.#send({
      event: "output",
      data: { attempt, stream, offset: at, data_base64, ...(text === undefined ? {} : { text }) },
    });
  }

  #tellGap(stream: StreamName, to: number, attempt: number): Promise<boolean> | boolean {
    const from = this.#at(stream);
    if (to <= from) return true;
    this.#move(stream, to);
    return this.#send({ event: "gap", data: { attempt, stream, from, to } });
  }

  /** False when the command lives again: it was replayed meanwhile. */
  async #tellEnd(complete: boolean): Promise<boolean> {
    const { state, attempt, reason, effect, exit_code, result } = await this.#deps.describe();
    if (!isTerminal(state)) return false;
    await this.#send({
      event: "end",
      data: {
        state,
        attempt,
        reason,
        effect,
        exit_code,
        signal: result?.signal ?? null,
        run_ms: result?.run_ms ?? null,
        error: result?.error ?? null,
        output_complete: complete,
        totals: this.#totals,
      },
    });
    return true;
  }

  #at(stream: StreamName): number {
    return this.#place?.[stream] ?? 0;
  }

  #move(stream: StreamName, to: number): void {
    if (this.#place !== undefined) this.#place = advanced(this.#place, stream, to);
  }

  #send(event: OutputEvent): Promise<boolean> {
    return this.#deps.send({ ...event, id: this.#place === undefined ? "0.0.0" : textOf(this.#place) });
  }
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function asText(bytes: Buffer): string | undefined {
  try {
    return utf8.decode(bytes);
  } catch {
    return undefined;
  }
}
