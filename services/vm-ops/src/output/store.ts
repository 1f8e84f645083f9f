import type { CommandState, StreamName } from "@muster/contracts/commands";
import type { Tx } from "@muster/database/database";
import { middleOf } from "./stream-policy.ts";
import type { StreamState } from "./stream-policy.ts";

export interface StreamKey {
  readonly tenantId: string;
  readonly commandId: string;
  readonly attempt: number;
  readonly stream: StreamName;
}
export const streamKeyOf = (key: StreamKey): string =>
  `${key.tenantId}/${key.commandId}/${key.attempt}/${key.stream}`;

interface StreamRow {
  readonly tenant_id: string;
  readonly command_id: string;
  readonly attempt: number;
  readonly stream: StreamName;
  readonly next_offset: number;
  readonly complete: boolean;
}

const keyColumns = "tenant_id text, command_id uuid, attempt integer, stream text";
const jsonOf = (keys: readonly StreamKey[]): string =>
  JSON.stringify(
    keys.map((key) => ({
      ...{ tenant_id: key.tenantId, command_id: key.commandId },
      ...{ attempt: key.attempt, stream: key.stream },
    })),
  );

/** Opens and locks streams, in one order for everybody. */
export async function lockStreams(tx: Tx, keys: readonly StreamKey[]): Promise<Map<string, StreamState>> {
  const sorted = [...keys].sort((a, b) => (streamKeyOf(a) < streamKeyOf(b) ? -1 : 1));
  // A conflict updates nothing that changes, but locks the row and returns it.
  const rows = await tx.query<StreamRow>(
    `INSERT INTO command_streams AS s (tenant_id, command_id, attempt, stream)
     SELECT tenant_id, command_id, attempt, stream FROM json_to_recordset($1::json) AS g(${keyColumns})
     ON CONFLICT (tenant_id, command_id, attempt, stream) DO UPDATE SET complete = s.complete
     RETURNING tenant_id, command_id, attempt, stream, next_offset, complete`,
    [jsonOf(sorted)],
    { name: "vmops_lock_streams" },
  );
  return new Map(
    rows.map((row) => [
      streamKeyOf({
        ...{ tenantId: row.tenant_id, commandId: row.command_id },
        ...{ attempt: row.attempt, stream: row.stream },
      }),
      { nextOffset: row.next_offset, complete: row.complete },
    ]),
  );
}

export interface StreamWrite {
  readonly key: StreamKey;
  readonly after: StreamState;
  readonly chunks: readonly { readonly offset: number; readonly data: Buffer }[];
}

// Chunks of this very statement are not seen by its DELETE; the next one removes them if they are in the middle.
const writeText = `WITH moved AS (
    UPDATE command_streams s SET next_offset = g.next_offset, complete = g.complete,
      cut_before = greatest(s.cut_before, coalesce(g.cut_to, 0))
    FROM json_to_recordset($1::json) AS g(${keyColumns}, next_offset bigint, complete boolean, cut_from bigint,
      cut_to bigint)
    WHERE s.tenant_id = g.tenant_id AND s.command_id = g.command_id AND s.attempt = g.attempt
      AND s.stream = g.stream
  ), cut AS (
    DELETE FROM command_output o
    USING json_to_recordset($1::json) AS g(${keyColumns}, cut_from bigint, cut_to bigint)
    WHERE g.cut_to IS NOT NULL AND o.tenant_id = g.tenant_id AND o.command_id = g.command_id
      AND o.attempt = g.attempt AND o.stream = g.stream AND o.start_offset >= g.cut_from
      AND o.start_offset + octet_length(o.bytes) <= g.cut_to
  )
  INSERT INTO command_output (tenant_id, command_id, attempt, stream, start_offset, bytes)
  SELECT * FROM unnest($2::text[], $3::uuid[], $4::integer[], $5::text[], $6::bigint[], $7::bytea[])
  ON CONFLICT DO NOTHING`;

/** Stores new chunks of locked streams and removes what has become their middle. */
export async function writeStreams(tx: Tx, writes: readonly StreamWrite[]): Promise<void> {
  if (writes.length === 0) return;
  const streams = writes.map(({ key, after }) => {
    const middle = middleOf(after.nextOffset);
    return {
      ...{ tenant_id: key.tenantId, command_id: key.commandId, attempt: key.attempt, stream: key.stream },
      ...{ next_offset: after.nextOffset, complete: after.complete },
      ...{ cut_from: middle?.from ?? null, cut_to: middle?.to ?? null },
    };
  });
  const chunks = writes.flatMap(({ key, chunks: all }) => all.map((chunk) => ({ key, ...chunk })));
  await tx.execute(
    writeText,
    [
      JSON.stringify(streams),
      ...[chunks.map(({ key }) => key.tenantId), chunks.map(({ key }) => key.commandId)],
      ...[chunks.map(({ key }) => key.attempt), chunks.map(({ key }) => key.stream)],
      ...[chunks.map(({ offset }) => offset), chunks.map(({ data }) => data)],
    ],
    { name: "vmops_write_streams" },
  );
}

export interface OutputHead {
  readonly state: CommandState;
  readonly attempt: number;
  readonly result: string | null;
  /** A claim of this attempt was granted. */
  readonly started: boolean;
  readonly stdout_complete: boolean | null;
  readonly stderr_complete: boolean | null;
  readonly stdout_next: number;
  readonly stderr_next: number;
}

/** Where a command and the output of its current attempt stand. */
export async function readHead(tx: Tx, tenantId: string, commandId: string): Promise<OutputHead | undefined> {
  const [row] = await tx.query<OutputHead>(
    `SELECT c.state, c.attempt, c.result, c.started_at IS NOT NULL AS started, o.complete AS stdout_complete, e.complete AS stderr_complete,
       coalesce(o.next_offset, 0) AS stdout_next, coalesce(e.next_offset, 0) AS stderr_next
     FROM commands c
     LEFT JOIN command_streams o ON o.tenant_id = c.tenant_id AND o.command_id = c.id AND o.attempt = c.attempt
       AND o.stream = 'stdout'
     LEFT JOIN command_streams e ON e.tenant_id = c.tenant_id AND e.command_id = c.id AND e.attempt = c.attempt
       AND e.stream = 'stderr'
     WHERE c.tenant_id = $1 AND c.id = $2`,
    [tenantId, commandId],
    { name: "vmops_output_head" },
  );
  return row;
}

export interface StoredChunk {
  readonly start_offset: number;
  readonly bytes: Buffer;
}

/** Chunks that are read at once. */
export const chunksMax = 512;

/** Chunks of a stream that end after `from`, in order, until `bytesMax` is reached; at least one where there is one. */
export async function readChunks(
  tx: Tx,
  key: StreamKey,
  from: number,
  bytesMax: number,
): Promise<StoredChunk[]> {
  // A chunk is at most 64 KiB, so the one that holds `from` starts no earlier than that before it.
  return tx.query<StoredChunk>(
    `SELECT start_offset, bytes FROM (
       SELECT start_offset, bytes, sum(octet_length(bytes)) OVER (ORDER BY start_offset) - octet_length(bytes) AS before
       FROM (SELECT start_offset, bytes FROM command_output
         WHERE tenant_id = $1 AND command_id = $2 AND attempt = $3 AND stream = $4
           AND start_offset > $5::bigint - 65536 AND start_offset + octet_length(bytes) > $5::bigint
         ORDER BY start_offset LIMIT ${chunksMax}) stored
     ) page WHERE before < $6 ORDER BY start_offset`,
    [key.tenantId, key.commandId, key.attempt, key.stream, from, bytesMax],
    { name: "vmops_read_chunks" },
  );
}
