import { envelope as envelopeSchema, headerPrefixes, type Envelope } from "@muster/contracts/envelope";
import { messageBytesMax, type Contract, type EventContract, type PayloadOf } from "@muster/contracts/define";
import { faultsOf, MusterError } from "@muster/contracts/errors";

/** What the CloudEvents AMQP binding needs of a message, whichever client delivered it. */
export interface ReceivedMessage {
  readonly body: Buffer;
  readonly contentType: string | undefined;
  readonly headers: Readonly<Record<string, unknown>>;
}

/** Room for attributes besides the payload. */
const attributesBytesMax = 64 * 1024;
const envelopeBytesMax = messageBytesMax + attributesBytesMax;
const wholeNumbers = new Set(["attempt", "timeoutms"]);

/**
 * Reads a CloudEvent in structured mode (content type `application/cloudevents+json`) or binary mode (attributes
 * as headers prefixed `cloudEvents_`, `cloudEvents:` or `ce-`, the body is the data).
 * Throws CONTRACT_VIOLATION whose details name each fault.
 */
export function readEnvelope(message: ReceivedMessage): Envelope {
  if (message.body.length > envelopeBytesMax) {
    throw violation([{ path: "(whole)", message: `larger than ${envelopeBytesMax} bytes` }]);
  }
  const structured = (message.contentType ?? "").toLowerCase().startsWith("application/cloudevents+json");
  const read = structured ? jsonOf(message.body) : binary(message);
  const parsed = envelopeSchema.safeParse(read);
  if (!parsed.success) throw violation(faultsOf(parsed.error), parsed.error);
  return parsed.data;
}

/** The validated payload of a message of `bodyBytes`. Throws `code`, whose details name each fault from `root` on. */
export function readPayload(
  contract: Contract,
  envelope: Envelope,
  bodyBytes: number,
  code: "VALIDATION_FAILED" | "CONTRACT_VIOLATION",
  root = "",
): unknown {
  if (bodyBytes > contract.payloadBytesMax + attributesBytesMax) {
    const message = `larger than ${contract.payloadBytesMax} bytes; send less`;
    throw new MusterError(code, undefined, { details: [{ path: root || "(whole)", message }] });
  }
  const parsed = contract.payload.safeParse(envelope.data);
  if (parsed.success) return parsed.data;
  throw new MusterError(code, undefined, { details: faultsOf(parsed.error, root), cause: parsed.error });
}

/** The payload of a message that must be this event. Throws CONTRACT_VIOLATION. */
export function readEvent<C extends EventContract>(contract: C, message: ReceivedMessage): PayloadOf<C> {
  const envelope = readEnvelope(message);
  if (envelope.type !== contract.name) {
    throw violation([{ path: "type", message: `must be ${contract.name}` }]);
  }
  const { length } = message.body;
  return readPayload(contract, envelope, length, "CONTRACT_VIOLATION", "data") as PayloadOf<C>;
}

function binary(message: ReceivedMessage): Record<string, unknown> {
  const read: Record<string, unknown> = {};
  for (const [header, value] of Object.entries(message.headers)) {
    const prefix = headerPrefixes.find((known) => header.startsWith(known));
    if (prefix === undefined) continue;
    const name = header.slice(prefix.length).toLowerCase();
    read[name] = wholeNumbers.has(name) && typeof value === "string" ? Number(value) : value;
  }
  read["datacontenttype"] ??= (message.contentType ?? "application/json").split(";")[0];
  read["data"] = message.body.length === 0 ? undefined : jsonOf(message.body);
  return read;
}

function jsonOf(body: Buffer): unknown {
  try {
    return JSON.parse(body.toString("utf8"));
  } catch (cause) {
    throw violation([{ path: "(whole)", message: "not JSON" }], cause);
  }
}

function violation(details: { path: string; message: string }[], cause?: unknown): MusterError {
  return new MusterError("CONTRACT_VIOLATION", "the message is not a valid CloudEvent", { details, cause });
}

/**
 * What work that a message causes runs with; the message becomes its cause. Add to it by Object.assign: spreading one
 * object into another costs more than reading the whole envelope.
 */
export function contextOf(envelope: Envelope) {
  return {
    // A message that names no correlation starts one.
    correlationId: envelope.correlationid ?? envelope.id.slice(0, 128),
    causationId: envelope.id,
    traceparent: envelope.traceparent,
    tenantId: envelope.tenantid,
    identity: envelope.identity,
  };
}

/** What a line of the log names a message by. */
export function trailOf({ id, type, correlationid }: Envelope) {
  return { message_id: id, type, correlation_id: correlationid };
}
