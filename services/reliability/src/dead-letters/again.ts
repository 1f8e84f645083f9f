import { prepareCopy } from "@muster/broker/prepare";
import { readEnvelope } from "@muster/broker/read-envelope";
import { MusterError } from "@muster/contracts/errors";
import type { PreparedMessage } from "@muster/contracts/message";
import { replayHeader } from "./read-death.ts";
import { textOf } from "./view.ts";

export interface DeadMessage {
  readonly queue: string;
  readonly exchange: string;
  readonly routing_key: string;
  readonly content_type: string | null;
  readonly headers: Record<string, unknown>;
  readonly body: Buffer;
  readonly body_bytes: number;
  readonly replays: number;
  readonly tenant_id: string | null;
  readonly message_id: string;
}

/**
 * The message as it was before it died: where it went, its id, its data; its attempts start anew. What lay in a
 * retry queue goes back to the queue that it was retried for. Throws NOT_REPLAYABLE when it was cut or cannot be read.
 */
export function messageAgain(letter: DeadMessage): PreparedMessage {
  if (letter.body_bytes > letter.body.length) {
    throw refusal("the message was too large to be kept whole; discard it");
  }
  const to = {
    exchange: letter.exchange,
    routingKey: letter.routing_key,
    headers: { [replayHeader]: String(letter.replays + 1) },
  };
  try {
    const contentType = letter.content_type ?? undefined;
    const envelope = readEnvelope({ body: letter.body, headers: letter.headers, contentType });
    const copy = prepareCopy(envelope, envelope.attempt === undefined ? {} : { attempt: 1 }, to);
    const structured = (contentType ?? "").toLowerCase().startsWith("application/cloudevents+json");
    const whole = structured && (envelope.attempt ?? 1) === 1 ? textOf(letter.body) : undefined;
    const message = whole === undefined ? copy : { ...copy, body: whole };
    // The same tenant as the row: an agent's word in the envelope decides nothing.
    return { ...message, tenantId: letter.tenant_id };
  } catch (cause) {
    throw refusal("the message cannot be read, so nobody would take it; discard it", cause);
  }
}

function refusal(message: string, cause?: unknown): MusterError {
  return new MusterError("NOT_REPLAYABLE", message, { cause });
}
