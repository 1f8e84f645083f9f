import type { agentOutput } from "@muster/contracts/agents";
import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import type { ReportItem } from "@muster/broker/broker";
import type { Database, Tx } from "@muster/database/database";
import type { ClaimTokens } from "../agents/claim-tokens.ts";
import type { LastSeen } from "../agents/last-seen.ts";
import { agentKeyOf, loadSessions, sessionFault } from "../agents/sessions.ts";
import type { VmOpsMetrics } from "../metrics.ts";
import type { Hints } from "./hints.ts";
import type { Pace } from "./pace.ts";
import { lockStreams, streamKeyOf, writeStreams } from "./store.ts";
import type { StreamKey, StreamWrite } from "./store.ts";
import { placeChunk } from "./stream-policy.ts";
import type { StreamState } from "./stream-policy.ts";

type Item = ReportItem<typeof agentOutput>;
type Given = PayloadOf<typeof agentOutput>["chunks"][number];
type Answer = ReplyInputOf<typeof agentOutput>["items"][number];

export interface OutputParts {
  readonly database: Pick<Database, "transaction">;
  readonly tokens: ClaimTokens;
  readonly lastSeen: LastSeen;
  readonly metrics: VmOpsMetrics;
  readonly hints: Hints;
  readonly pace: Pace;
}

/** Stores chunks of output of many agents in one transaction, and says how soon more is welcome. */
export async function takeOutput(
  parts: OutputParts,
  items: readonly Item[],
): Promise<readonly (ReplyInputOf<typeof agentOutput> | MusterError)[]> {
  const arriving = parts.pace.enter(items.reduce((sum, item) => sum + sizeOf(item), 0));
  try {
    const taken = await parts.database.transaction("system", (tx) => takeAll(tx, parts, items));
    observe(parts, taken.writes, taken.stale);
    const tempo = parts.pace.tempo();
    return taken.answers.map((answer, at) => {
      if (answer instanceof MusterError) return answer;
      const item = items[at];
      if (item !== undefined) parts.lastSeen.touch(item.context, item.payload.session.generation);
      return { items: answer, next_interval_ms: tempo.nextIntervalMs, paused: tempo.paused };
    });
  } finally {
    arriving.leave();
  }
}

const sizeOf = (item: Item): number =>
  item.payload.chunks.reduce((sum, chunk) => sum + chunk.data_base64.length, 0);

interface Taken {
  readonly answers: (Answer[] | MusterError)[];
  readonly writes: StreamWrite[];
  readonly stale: number;
}

async function takeAll(tx: Tx, { tokens }: OutputParts, items: readonly Item[]): Promise<Taken> {
  const sessions = await loadSessions(tx, items.map(({ context }) => context)); // prettier-ignore
  const keys = new Map<string, StreamKey>();
  let stale = 0;
  const judged = items.map((item) => {
    const fault = sessionFault(
      sessions.get(agentKeyOf(item.context)),
      item.payload.session,
      item.context.epoch,
    );
    if (fault !== undefined) return fault;
    return item.payload.chunks.map((chunk) => {
      const key = keyOfChunk(item.context.tenantId, chunk);
      // Only a grant makes such a token, so the attempt exists and this agent held it.
      if (tokens.nonceOf(chunk.token, chunk.command_id, chunk.attempt) === undefined) {
        stale += 1;
        return { chunk, key: undefined };
      }
      keys.set(streamKeyOf(key), key);
      return { chunk, key };
    });
  });
  const states = keys.size === 0 ? new Map<string, StreamState>() : await lockStreams(tx, [...keys.values()]);
  const writes = new Map<string, StreamWrite>();
  const answers = judged.map((one) =>
    one instanceof MusterError ? one : one.map(({ chunk, key }) => placeOne(chunk, key, states, writes)),
  );
  await writeStreams(tx, [...writes.values()]);
  return { answers, writes: [...writes.values()], stale };
}

const keyOfChunk = (tenantId: string, chunk: Given): StreamKey => ({
  tenantId,
  commandId: chunk.command_id,
  attempt: chunk.attempt,
  stream: chunk.stream,
});

function placeOne(
  chunk: Given,
  key: StreamKey | undefined,
  states: Map<string, StreamState>,
  writes: Map<string, StreamWrite>,
): Answer {
  const { command_id, attempt, stream } = chunk;
  const answer = { command_id, attempt, stream };
  const state = key === undefined ? undefined : states.get(streamKeyOf(key));
  if (key === undefined || state === undefined)
    return { ...answer, accepted: false, next_offset: chunk.offset };
  const data = Buffer.from(chunk.data_base64, "base64");
  const placed = placeChunk(state, { offset: chunk.offset, data, last: chunk.last });
  const id = streamKeyOf(key);
  if (placed.after !== state) {
    states.set(id, placed.after);
    const before = writes.get(id)?.chunks ?? [];
    const chunks = placed.store === undefined ? before : [...before, placed.store];
    writes.set(id, { key, after: placed.after, chunks });
  }
  return {
    ...answer,
    accepted: true,
    next_offset: Math.max(placed.after.nextOffset, chunk.offset + data.length),
  };
}

function observe({ metrics, hints }: OutputParts, writes: readonly StreamWrite[], stale: number): void {
  if (stale > 0) metrics.staleReports.inc({ report: "output" }, stale);
  for (const { key, chunks } of writes) {
    hints.changed(key.commandId);
    metrics.outputBytes.inc(chunks.reduce((sum, chunk) => sum + chunk.data.length, 0));
  }
}
