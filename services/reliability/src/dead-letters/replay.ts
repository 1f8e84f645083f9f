import type { Broker, RequestContext } from "@muster/broker/broker";
import type { PayloadOf, ReplyOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import type { ErrorCode } from "@muster/contracts/errors";
import type { Principal } from "@muster/contracts/principal";
import type { reliabilityRequests } from "@muster/contracts/reliability";
import { vmOpsRequests } from "@muster/contracts/vm-ops";
import type { Database } from "@muster/database/database";
import { violatedConstraint } from "@muster/database/faults";
import { callerWithRole, scopeOf } from "../access.ts";
import { messageAgain } from "./again.ts";
import { addAudit, endReplaying, markReplaying, readDeadLetter, settle } from "./store.ts";
import type { DeadLetterDetailRow } from "./store.ts";

type Replay = typeof reliabilityRequests.replayDeadLetter;
export type ReplayOutcome = ReplyOf<Replay>;

export interface ReplayParts {
  readonly database: Database;
  readonly broker: Pick<Broker, "request">;
}

const vmOpsTimeoutMs = 10_000;
/** Longer than the request takes at most: a mark that is still there afterwards is of a process that died. */
const markMs = vmOpsTimeoutMs + 5_000;

export function replaying(parts: ReplayParts) {
  return async (payload: PayloadOf<Replay>, context: RequestContext): Promise<ReplayOutcome> =>
    replayOne(parts, payload.dead_letter_id, callerWithRole(context, "admin"), context);
}

/**
 * Sends a dead letter again, once. A message goes into the outbox in the transaction that settles its row. A command
 * is put back by vm-ops: the row is marked first, and settled by vm-ops's answer or, when that is lost, by its event
 * `vm-ops.command.replayed.v1`, which names the dead letter. vm-ops replays a command only while it is
 * dead-lettered, so trying again after a lost answer never makes a second attempt.
 */
export async function replayOne(
  parts: ReplayParts,
  id: string,
  caller: Principal,
  context: RequestContext,
): Promise<ReplayOutcome> {
  const { database } = parts;
  const first = await uniqueOnTheWay(
    database.transaction(scopeOf(caller), async (tx) => {
      const row = await readDeadLetter(tx, id, "FOR UPDATE");
      refuseUnlessOpen(row);
      if (!goesThroughVmOps(row)) return publishAgain(tx, row, caller);
      await markReplaying(tx, id, caller.subject, markMs);
      await addAudit(tx, id, caller.subject, "replay_requested", null);
      return row;
    }),
  );
  return "replayed_to" in first ? first : replayByVmOps(parts, first, caller, context);
}

/** Throws DEAD_LETTER_NOT_FOUND, or NOT_REPLAYABLE for what is settled or being replayed. */
export function refuseUnlessOpen(row: DeadLetterDetailRow | undefined): asserts row is DeadLetterDetailRow {
  if (row === undefined) throw new MusterError("DEAD_LETTER_NOT_FOUND");
  if (row.state !== "open") {
    throw new MusterError(
      "NOT_REPLAYABLE",
      `this dead letter was ${row.state} by ${row.settled_by ?? "someone"}`,
    );
  }
  if (row.replaying) throw new MusterError("NOT_REPLAYABLE", "this dead letter is being replayed right now");
}

/** A dead-lettered command, or the doorbell that rang for one: a new attempt, not the old message. */
function goesThroughVmOps(row: DeadLetterDetailRow): row is CommandLetter {
  if (row.command_id === null) return false;
  return row.kind === "command" || row.command_kind === "run";
}

type Tx = Parameters<Parameters<Database["transaction"]>[1]>[0];

async function publishAgain(tx: Tx, row: DeadLetterDetailRow, caller: Principal): Promise<ReplayOutcome> {
  const message = messageAgain(row);
  tx.publish(message);
  const replayedTo =
    message.exchange === "" ? message.routingKey : `${message.exchange} ${message.routingKey}`;
  await settle(tx, row.id, { state: "replayed", actor: caller.subject, note: `sent to ${replayedTo}` });
  return { id: row.id, kind: row.kind, state: "replayed", replayed_to: replayedTo };
}

type CommandLetter = DeadLetterDetailRow & { readonly command_id: string };

async function replayByVmOps(
  parts: ReplayParts,
  row: CommandLetter,
  caller: Principal,
  context: RequestContext,
): Promise<ReplayOutcome> {
  const payload = { command_id: row.command_id, dead_letter_id: row.id };
  const timeoutMs = Math.max(1, Math.min(vmOpsTimeoutMs, context.remainingMs));
  let answer: ReplyOf<typeof vmOpsRequests.replayCommand>;
  try {
    answer = await parts.broker.request(vmOpsRequests.replayCommand, payload, context, { timeoutMs });
  } catch (error) {
    return afterRefusal(parts, row, caller, error);
  }
  const replayedTo = `attempt ${answer.attempt} of command ${answer.command_id}`;
  // False when vm-ops's event was faster than its answer: settled all the same.
  await parts.database.transaction(scopeOf(caller), (tx) =>
    settle(tx, row.id, { state: "replayed", actor: caller.subject, note: replayedTo }),
  );
  return { id: row.id, kind: row.kind, state: "replayed", replayed_to: replayedTo };
}

const finalRefusals: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  "NOT_REPLAYABLE",
  "COMMAND_NOT_FOUND",
  "VM_RETIRED",
  "FORBIDDEN",
  "MISSING_BEARER_TOKEN",
  "INVALID_OR_MISSING_BEARER_TOKEN",
  "VALIDATION_FAILED",
  "UNSUPPORTED_MESSAGE",
]);

async function afterRefusal(
  parts: ReplayParts,
  row: CommandLetter,
  caller: Principal,
  error: unknown,
): Promise<ReplayOutcome> {
  const code = error instanceof MusterError ? error.code : "INTERNAL";
  const scope = scopeOf(caller);
  if (!finalRefusals.has(code)) {
    await parts.database.transaction(scope, (tx) => endReplaying(tx, row.id, caller.subject, "unknown"));
    throw error;
  }
  // The command went its own way; the doorbell is a hint that may always be given again.
  if (code === "NOT_REPLAYABLE" && row.kind === "message") {
    return uniqueOnTheWay(
      parts.database.transaction(scope, async (tx) => {
        const now = await readDeadLetter(tx, row.id, "FOR UPDATE");
        if (now === undefined) throw new MusterError("DEAD_LETTER_NOT_FOUND");
        if (now.state === "replayed") return settledByEvent(row);
        return publishAgain(tx, now, caller);
      }),
    );
  }
  const end = await parts.database.transaction(scope, (tx) => writeRefusal(tx, row, caller, code, error));
  if (end instanceof MusterError) throw end;
  return end;
}

/** After a replay whose answer was lost, "not replayable" may mean "done": then vm-ops's event decides. */
async function writeRefusal(
  tx: Tx,
  row: CommandLetter,
  caller: Principal,
  code: ErrorCode,
  cause: unknown,
): Promise<ReplayOutcome | MusterError> {
  const now = await readDeadLetter(tx, row.id, "FOR UPDATE");
  if (now?.state === "replayed") return settledByEvent(row);
  const perhapsDone = code === "NOT_REPLAYABLE" && row.replay_lapsed;
  await endReplaying(tx, row.id, caller.subject, perhapsDone ? "unknown" : "refused");
  await addAudit(tx, row.id, caller.subject, "replay_refused", code);
  if (code === "FORBIDDEN" || code === "INVALID_OR_MISSING_BEARER_TOKEN" || code === "MISSING_BEARER_TOKEN") {
    return new MusterError(code, undefined, { cause });
  }
  return new MusterError("NOT_REPLAYABLE", perhapsDone ? perhapsReplayed : refusals[code], { cause });
}

const perhapsReplayed =
  "an earlier replay of it may have succeeded though its answer was lost; look at the command, and here again soon";
const refusals: Partial<Record<ErrorCode, string>> = {
  NOT_REPLAYABLE: "the command is no longer dead-lettered; look at it, then discard this dead letter",
  COMMAND_NOT_FOUND: "the command does not exist any more; discard this dead letter",
  VM_RETIRED: "the command's VM is retired; discard this dead letter",
};

const settledByEvent = (row: CommandLetter): ReplayOutcome => ({
  id: row.id,
  kind: row.kind,
  state: "replayed",
  replayed_to: `a new attempt of command ${row.command_id}`,
});

/** The outbox holds a message once: a second dead letter of the same message waits until the first is on its way. */
async function uniqueOnTheWay<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    if (violatedConstraint(error)?.startsWith("outbox") !== true) throw error;
    throw new MusterError("DEPENDENCY_UNAVAILABLE", "the same message is on its way already; retry", {
      cause: error,
      retryAfterMs: 1_000,
    });
  }
}
