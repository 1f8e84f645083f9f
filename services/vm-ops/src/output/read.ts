import { isTerminal } from "@muster/contracts/commands";
import type { CommandResult, OutputPage, StreamName } from "@muster/contracts/commands";
import type { PayloadOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import type { vmOpsRequests } from "@muster/contracts/vm-ops";
import type { RequestContext } from "@muster/broker/broker";
import type { Database, Tx } from "@muster/database/database";
import { callerOf } from "../caller.ts";
import { resultOf } from "../commands/row.ts";
import { chunksMax, readChunks, readHead } from "./store.ts";
import type { OutputHead, StoredChunk } from "./store.ts";

const pageBytesMax = 256 * 1024;

/**
 * Output of the current attempt from a cursor on. `complete` when nothing more will come: the command has ended, and
 * its streams have too, or it was never started.
 */
export async function readOutput(
  database: Pick<Database, "transaction">,
  { command_id: commandId, cursor }: PayloadOf<typeof vmOpsRequests.readOutput>,
  context: RequestContext,
): Promise<OutputPage> {
  const { tenant_id: tenantId } = callerOf(context, "member");
  const [stdoutFrom, stderrFrom] = (cursor ?? "0.0").split(".").map(Number);
  const from = { stdout: stdoutFrom ?? 0, stderr: stderrFrom ?? 0 };
  // One snapshot for head and chunks: what is said to be complete must have been read.
  const options = { readOnly: true, isolation: "repeatable read" } as const;
  const page = await database.transaction(
    { tenants: [tenantId] },
    (tx) => readPage(tx, tenantId, commandId, from),
    options,
  );
  if (page === undefined) throw new MusterError("COMMAND_NOT_FOUND");
  return page;
}

async function readPage(
  tx: Tx,
  tenantId: string,
  commandId: string,
  from: Readonly<Record<StreamName, number>>,
): Promise<OutputPage | undefined> {
  const head = await readHead(tx, tenantId, commandId);
  if (head === undefined) return undefined;
  const key = { tenantId, commandId, attempt: head.attempt };
  const stdout = await readChunks(tx, { ...key, stream: "stdout" }, from.stdout, pageBytesMax);
  const left = pageBytesMax - stdout.reduce((sum, chunk) => sum + chunk.bytes.length, 0);
  const stderr = left <= 0 ? [] : await readChunks(tx, { ...key, stream: "stderr" }, from.stderr, left);
  const result = resultOf(head.result);
  const chunks = [...cutTo("stdout", stdout, from.stdout), ...cutTo("stderr", stderr, from.stderr)];
  const end = {
    stdout: endOf(stdout, from.stdout, pageBytesMax, head.stdout_complete === true ? head.stdout_next : 0),
    stderr: endOf(stderr, from.stderr, left, head.stderr_complete === true ? head.stderr_next : 0),
  };
  return {
    state: head.state,
    attempt: head.attempt,
    chunks,
    cursor: `${end.stdout}.${end.stderr}`,
    complete: isComplete(head, result) && end.stdout >= head.stdout_next && end.stderr >= head.stderr_next,
    totals: result?.output ?? null,
  };
}

/** Chunks as they are stored, the first one from the cursor on. */
function cutTo(stream: StreamName, chunks: readonly StoredChunk[], from: number): OutputPage["chunks"] {
  return chunks.map(({ start_offset, bytes }) => {
    const offset = Math.max(start_offset, from);
    return { stream, offset, data_base64: bytes.subarray(offset - start_offset).toString("base64") };
  });
}

/**
 * Where a page ends. Once a stream is over and all that is stored of it was read, that is its end: bytes that are missing
 * there were never kept, such as on a full disk, and nobody may wait for them.
 */
function endOf(chunks: readonly StoredChunk[], from: number, bytesMax: number, streamEnd: number): number {
  const last = chunks.at(-1);
  const end = last === undefined ? from : last.start_offset + last.bytes.length;
  const bytes = chunks.reduce((sum, chunk) => sum + chunk.bytes.length, 0);
  return bytes < bytesMax && chunks.length < chunksMax ? Math.max(end, streamEnd) : end;
}

function isComplete(head: OutputHead, result: CommandResult | null): boolean {
  if (!isTerminal(head.state)) return false;
  if (!head.started) return true;
  return (
    streamIsOver(head.stdout_complete, result, "stdout") &&
    streamIsOver(head.stderr_complete, result, "stderr")
  );
}

/** Ended by its last chunk; or never begun (null), and the result announces none. */
function streamIsOver(complete: boolean | null, result: CommandResult | null, stream: StreamName): boolean {
  if (complete !== null) return complete;
  return result !== null && (result.output === null || result.output[stream].bytes_total === 0);
}
