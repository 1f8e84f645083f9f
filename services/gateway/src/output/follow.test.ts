import type { CommandDetail, CommandState, OutputPage } from "@muster/contracts/commands";
import { MusterError } from "@muster/contracts/errors";
import type { OutputEvent } from "@muster/contracts/output-stream";
import { expect } from "chai";
import fc from "fast-check";
import { followOutput } from "./follow.ts";
import { placeOf } from "./place.ts";

interface Scripted {
  attempt: number;
  state: CommandState;
  stdout: Buffer;
  stderr: Buffer;
  /** stdout from here to there was cut. */
  cut?: [number, number];
  complete: boolean;
}

const chunkBytes = 7;
/** By the test's clock; longer than anything waits. */
const viewerStaysMs = 60_000;

/** Answers like the owner: chunks from the cursor on, a few at a time. */
function pageOf(command: Scripted, cursor: string | undefined): OutputPage {
  const [out, err] = (cursor ?? "0.0").split(".").map(Number) as [number, number];
  const chunks: OutputPage["chunks"] = [];
  const at = { stdout: out, stderr: err };
  for (const stream of ["stdout", "stderr"] as const) {
    for (let i = 0; i < 2 && at[stream] < command[stream].length; i++) {
      const [from, to] = stream === "stdout" ? (command.cut ?? [0, 0]) : [0, 0];
      if (at[stream] >= from && at[stream] < to) at[stream] = to;
      const end = at[stream] < from ? Math.min(at[stream] + chunkBytes, from) : at[stream] + chunkBytes;
      const data = command[stream].subarray(at[stream], end);
      if (data.length > 0) chunks.push({ stream, offset: at[stream], data_base64: data.toString("base64") });
      at[stream] += data.length;
    }
  }
  const read = at.stdout >= command.stdout.length && at.stderr >= command.stderr.length;
  return {
    state: command.state,
    attempt: command.attempt,
    chunks,
    cursor: `${at.stdout}.${at.stderr}`,
    complete: command.complete && read,
    totals: null,
  };
}

function setup(command: Scripted) {
  const seen: (OutputEvent & { id: string })[] = [];
  const clock = { nowMs: 0 };
  const follow = (
    from: string | undefined,
    o: { takes?: number; read?: (c?: string) => OutputPage } = {},
  ) => {
    let left = o.takes ?? Infinity;
    const gone = new AbortController();
    return followOutput(placeOf(from), {
      read: (cursor) => Promise.resolve().then(() => (o.read ?? ((c) => pageOf(command, c)))(cursor)),
      describe: () => Promise.resolve(detailOf(command)),
      nextHint: (ms) => {
        clock.nowMs += ms;
        if (clock.nowMs > viewerStaysMs) gone.abort();
        return Promise.resolve();
      },
      send: (event) => {
        if (left-- <= 0) return Promise.resolve(false);
        seen.push(event);
        return Promise.resolve(true);
      },
      signal: gone.signal,
      pollMs: 1_000,
      lingerMs: 10_000,
      failingMaxMs: 5_000,
      now: () => clock.nowMs,
    });
  };
  return { seen, follow, clock };
}

function detailOf(command: Scripted): CommandDetail {
  const { state, attempt } = command;
  const fields = { state, attempt, reason: "completed", effect: "applied", exit_code: 0, result: null };
  return fields as unknown as CommandDetail;
}

function bytesOf(events: readonly OutputEvent[], stream: "stdout" | "stderr"): Buffer {
  return Buffer.concat(
    events.flatMap(({ event, data }) =>
      event === "output" && data.stream === stream ? [Buffer.from(data.data_base64, "base64")] : [],
    ),
  );
}

const finished = { attempt: 1, state: "succeeded", complete: true } as const;

describe("a followed output", () => {
  it("is the same bytes however often and wherever the stream is cut", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.uint8Array({ maxLength: 80 }),
        fc.uint8Array({ maxLength: 60 }),
        fc.array(fc.integer({ min: 0, max: 5 }), { maxLength: 12 }),
        async (stdout, stderr, cuts) => {
          const { seen, follow } = setup({
            ...finished,
            stdout: Buffer.from(stdout),
            stderr: Buffer.from(stderr),
          });
          for (const takes of cuts) {
            if (seen.at(-1)?.event === "end") break;
            await follow(seen.at(-1)?.id, { takes });
          }
          if (seen.at(-1)?.event !== "end") await follow(seen.at(-1)?.id);
          expect(bytesOf(seen, "stdout")).to.deep.equal(Buffer.from(stdout));
          expect(bytesOf(seen, "stderr")).to.deep.equal(Buffer.from(stderr));
          expect(seen.filter(({ event }) => event === "end")).to.have.length(1);
        },
      ),
      { numRuns: 200 },
    );
  });

  it("tells what was cut as a gap, and nothing twice", async () => {
    const stdout = Buffer.from("0123456789abcdefghijklmnopqrstuvwxyz");
    const { seen, follow } = setup({ ...finished, stdout, stderr: Buffer.alloc(0), cut: [10, 30] });
    await follow(undefined);
    expect(bytesOf(seen, "stdout").toString()).to.equal("0123456789uvwxyz");
    const gaps = seen.filter(({ event }) => event === "gap").map(({ data }) => data);
    expect(gaps).to.deep.equal([{ attempt: 1, stream: "stdout", from: 10, to: 30 }]);
  });

  it("starts again at 0 when another attempt has begun", async () => {
    const command: Scripted = {
      attempt: 1,
      state: "running",
      stdout: Buffer.from("first attempt"),
      stderr: Buffer.alloc(0),
      complete: false,
    };
    const { seen, follow } = setup(command);
    await follow(undefined, { takes: 3 });
    const place = seen.at(-1)?.id;
    expect(place).to.equal("1.13.0");
    Object.assign(command, { ...finished, attempt: 2, stdout: Buffer.from("second") });
    seen.length = 0;
    await follow(place);
    expect(seen.map(({ event, id }) => [event, id])).to.deep.equal([
      ["state", "2.0.0"],
      ["output", "2.6.0"],
      ["end", "2.6.0"],
    ]);
    expect(bytesOf(seen, "stdout").toString()).to.equal("second");
  });

  it("ends though the rest never came, and says so", async () => {
    const command: Scripted = {
      attempt: 1,
      state: "expired",
      stdout: Buffer.from("half"),
      stderr: Buffer.alloc(0),
      complete: false,
    };
    const { seen, follow, clock } = setup(command);
    await follow(undefined);
    const last = seen.at(-1);
    expect(last?.event === "end" && last.data.output_complete).to.equal(false);
    expect(clock.nowMs).to.be.at.least(10_000);
  });

  it("outlasts a short absence of the owner, and ends without an end event after a long one", async () => {
    const command = { ...finished, stdout: Buffer.from("x"), stderr: Buffer.alloc(0) };
    const short = setup(command);
    let failures = 3;
    await short.follow(undefined, {
      read: (cursor) => {
        if (failures-- > 0) throw new MusterError("DEPENDENCY_UNAVAILABLE");
        return pageOf(command, cursor);
      },
    });
    expect(short.seen.at(-1)?.event).to.equal("end");

    const long = setup(command);
    await long.follow(undefined, {
      read: () => {
        throw new MusterError("DEPENDENCY_UNAVAILABLE");
      },
    });
    expect(long.seen).to.deep.equal([]);
  });

  it("gives text only where the bytes are UTF-8 by themselves", async () => {
    const { seen, follow } = setup({
      ...finished,
      stdout: Buffer.concat([Buffer.from("abcdef"), Buffer.from("é")]),
      stderr: Buffer.from("plain"),
    });
    await follow(undefined);
    const texts = seen.flatMap(({ event, data }) => (event === "output" ? [data.text] : []));
    expect(texts).to.deep.equal([undefined, undefined, "plain"]);
  });
});
