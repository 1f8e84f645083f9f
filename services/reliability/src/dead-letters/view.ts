import type { z } from "zod";
import type { deadLetterDetail, DeadLetterView } from "@muster/contracts/reliability";
import { diagnosisOf } from "./diagnosis.ts";
import { storableText } from "./storable.ts";
import type { AuditRow, DeadLetterDetailRow, DeadLetterRow } from "./store.ts";

const shownBytesMax = 64 * 1_024;
/** Access tokens travel in the envelope of requests; nobody else may hold them. */
const tokens = /eyJ[\w-]{8,}\.[\w-]+\.[\w-]+/g;
const hidden = "[token]";

export function viewOf(row: DeadLetterRow): DeadLetterView {
  return {
    id: row.id,
    kind: row.kind,
    state: row.state,
    queue: row.queue,
    reason: row.reason,
    type: row.type,
    message_id: row.message_id,
    command_id: row.command_id,
    vm_uuid: row.vm_uuid,
    correlation_id: row.correlation_id,
    last_error: row.last_error,
    diagnosis: diagnosisOf(row),
    deaths: row.deaths,
    died_at: row.died_at.toISOString(),
    recorded_at: row.recorded_at.toISOString(),
    settled_at: row.settled_at?.toISOString() ?? null,
    settled_by: row.settled_by,
    settle_reason: row.settle_reason,
  };
}

export function detailOf(
  row: DeadLetterDetailRow,
  audit: readonly AuditRow[],
): z.infer<typeof deadLetterDetail> {
  return {
    ...viewOf(row),
    exchange: row.exchange,
    routing_key: row.routing_key,
    headers: row.headers,
    history: row.history,
    ...bodyOf(row),
    audit: audit.map(({ at, actor, action, note }) => ({ at: at.toISOString(), actor, action, note })),
  };
}

function bodyOf(row: Pick<DeadLetterDetailRow, "body" | "body_bytes">) {
  const whole = textOf(row.body);
  const cut = row.body_bytes > shownBytesMax;
  if (whole === undefined) {
    const body = row.body.subarray(0, shownBytesMax).toString("base64");
    return { body, body_encoding: "base64" as const, body_truncated: cut };
  }
  // Hidden before the cut, so that no half of a token is left at its end.
  const shown = Buffer.from(whole.replace(tokens, hidden)).subarray(0, shownBytesMax).toString("utf8");
  return {
    body: storableText(shown.replace(/\ufffd$/, ""), shownBytesMax),
    body_encoding: "utf8" as const,
    body_truncated: cut,
  };
}

/** The text, if it is UTF-8 to the end (a character that our own limit has cut does not count). */
export function textOf(body: Buffer): string | undefined {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(body, { stream: true });
  } catch {
    return undefined;
  }
}
