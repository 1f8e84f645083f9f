import type { Options } from "amqplib";
import { childTraceparent } from "@muster/telemetry/context";
import type {
  DoorbellContract,
  EventContract,
  PayloadInputOf,
  ReportContract,
  RequestContract,
} from "@muster/contracts/define";
import {
  cloudEventsContentType,
  envelope as envelopeSchema,
  mirroredAttributes,
  type Envelope,
  type WorkContext,
} from "@muster/contracts/envelope";
import { faultsOf, MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import type { PreparedMessage } from "@muster/contracts/message";
import { eventsExchange } from "@muster/contracts/topology";

/** Attributes of an envelope without its data. */
export type Attributes = Omit<Envelope, "data" | "specversion" | "datacontenttype">;

const attributesSchema = envelopeSchema.omit({ data: true });
/** AMQP short strings: routing keys, exchange names, message ids, types. */
const shortStringBytesMax = 255;

interface Addressed {
  readonly exchange: string;
  readonly routingKey: string;
  readonly orderingKey: string | null;
  readonly payloadBytesMax: number;
}

/** An event for its owner's exchange. Throws CONTRACT_VIOLATION when the payload does not fit the contract. */
export function prepareEvent<C extends EventContract>(
  contract: C,
  payload: PayloadInputOf<C>,
  o: { id?: string; context: WorkContext; orderingKey?: string; subject?: string; tenantId?: string },
): PreparedMessage {
  const attributes = attributesOf(contract.name, `/muster/${contract.owner}`, o.context, o.id, o.tenantId);
  if (o.subject !== undefined) attributes.subject = o.subject;
  const message = prepared(attributes, checkedPayload(contract, payload), {
    exchange: eventsExchange(contract.owner),
    routingKey: contract.name,
    orderingKey: o.orderingKey ?? null,
    payloadBytesMax: contract.payloadBytesMax,
  });
  return contract.external ? { ...message, unheard: true } : message;
}

/** A doorbell straight into one VM's queue, in the order of writing. Throws CONTRACT_VIOLATION. */
export function prepareDoorbell<C extends DoorbellContract>(
  contract: C,
  payload: PayloadInputOf<C>,
  o: { id?: string; context: WorkContext; tenantId: string; queue: string },
): PreparedMessage {
  const attributes = attributesOf(contract.name, `/muster/${contract.owner}`, o.context, o.id, o.tenantId);
  return prepared(attributes, checkedPayload(contract, payload), {
    exchange: "",
    routingKey: o.queue,
    orderingKey: o.queue,
    payloadBytesMax: contract.payloadBytesMax,
  });
}

/** A request or report; `timeoutMs` counts from now. Throws CONTRACT_VIOLATION. */
export function prepareRequest<C extends RequestContract | ReportContract>(
  contract: C,
  payload: PayloadInputOf<C>,
  o: {
    id?: string;
    context: WorkContext;
    source: string;
    exchange: string;
    routingKey: string;
    timeoutMs: number;
    tenantId?: string;
  },
): PreparedMessage {
  const attributes = attributesOf(contract.name, o.source, o.context, o.id, o.tenantId);
  attributes.timeoutms = Math.max(1, Math.ceil(o.timeoutMs));
  if (o.context.identity !== undefined) attributes.identity = o.context.identity;
  return prepared(attributes, checkedPayload(contract, payload), {
    exchange: o.exchange,
    routingKey: o.routingKey,
    orderingKey: null,
    payloadBytesMax: contract.payloadBytesMax,
  });
}

/** The same message once more, as given: other attributes, data untouched. */
export function prepareCopy(
  original: Envelope,
  changes: Partial<Attributes>,
  to: { exchange: string; routingKey: string; headers: Readonly<Record<string, string>> },
): PreparedMessage {
  const { data, specversion: _specversion, datacontenttype: _datacontenttype, ...attributes } = original;
  const copy = prepared({ ...attributes, ...changes }, JSON.stringify(data ?? null), {
    exchange: to.exchange,
    routingKey: to.routingKey,
    orderingKey: null,
    payloadBytesMax: Number.MAX_SAFE_INTEGER,
  });
  return { ...copy, headers: { ...copy.headers, ...to.headers } };
}

/** A reply's attributes and data; never validated again here, the owner did. */
export function prepareReply(attributes: Attributes, data: unknown): PreparedMessage {
  return prepared(attributes, JSON.stringify(data), {
    exchange: "",
    routingKey: "reply",
    orderingKey: null,
    payloadBytesMax: Number.MAX_SAFE_INTEGER,
  });
}

/** The attributes that every message made in this context has. */
export function attributesOf(
  type: string,
  source: string,
  context: WorkContext,
  id: string | undefined,
  tenantIdGiven?: string,
): Attributes {
  const attributes: Attributes = {
    id: id ?? uuidv7(),
    source,
    type,
    time: new Date().toISOString(),
    correlationid: context.correlationId,
    traceparent: childTraceparent(context.traceparent),
  };
  const tenantId = tenantIdGiven ?? context.tenantId;
  if (tenantId !== undefined) attributes.tenantid = tenantId;
  if (context.causationId !== undefined) attributes.causationid = context.causationId;
  return attributes;
}

function checkedPayload(
  contract: { name: string; payload: EventContract["payload"] },
  payload: unknown,
): string {
  const parsed = contract.payload.safeParse(payload);
  if (!parsed.success) {
    throw new MusterError("CONTRACT_VIOLATION", `the payload does not fit ${contract.name}`, {
      details: faultsOf(parsed.error, "data"),
      cause: parsed.error,
    });
  }
  return parsed.data === undefined ? "null" : JSON.stringify(parsed.data);
}

function prepared(attributes: Attributes, dataJson: string, to: Addressed): PreparedMessage {
  const bytes = dataJson.length * 3 <= to.payloadBytesMax ? 0 : Buffer.byteLength(dataJson);
  if (bytes > to.payloadBytesMax) {
    throw new MusterError("CONTRACT_VIOLATION", `the payload of ${attributes.type} is too large`, {
      details: [{ path: "data", message: `${bytes} bytes of at most ${to.payloadBytesMax}; send less` }],
    });
  }
  const whole = wholeOf(attributes);
  const checked = attributesSchema.safeParse(whole);
  if (!checked.success) {
    throw new MusterError("CONTRACT_VIOLATION", `the envelope of ${attributes.type} is not valid`, {
      details: faultsOf(checked.error),
      cause: checked.error,
    });
  }
  refuseLong("routing key", to.routingKey);
  refuseLong("exchange", to.exchange);
  return {
    id: attributes.id,
    type: attributes.type,
    exchange: to.exchange,
    routingKey: to.routingKey,
    orderingKey: to.orderingKey,
    tenantId: attributes.tenantid ?? null,
    body: `${JSON.stringify(whole).slice(0, -1)},"data":${dataJson}}`,
    headers: mirrored(whole),
  };
}

/** Member by member: a spread costs more than validating the result. What is undefined is not on the wire. */
function wholeOf(attributes: Attributes): Omit<Envelope, "data"> {
  return {
    specversion: "1.0",
    id: attributes.id,
    source: attributes.source,
    type: attributes.type,
    subject: attributes.subject,
    time: attributes.time,
    datacontenttype: "application/json",
    tenantid: attributes.tenantid,
    attempt: attributes.attempt,
    correlationid: attributes.correlationid,
    causationid: attributes.causationid,
    timeoutms: attributes.timeoutms,
    traceparent: attributes.traceparent,
    identity: attributes.identity,
  };
}

function refuseLong(what: string, text: string): void {
  // a character is three bytes at most
  if (text.length * 3 <= shortStringBytesMax || Buffer.byteLength(text) <= shortStringBytesMax) return;
  throw new MusterError("CONTRACT_VIOLATION", `the ${what} is longer than ${shortStringBytesMax} bytes`);
}

const mirrors = mirroredAttributes.map((name) => ({ name, header: `cloudEvents_${name}` }));

function mirrored(attributes: Omit<Envelope, "data">): Record<string, string> {
  const headers: Record<string, string> = {};
  for (const { name, header } of mirrors) {
    const value = attributes[name];
    if (value !== undefined) headers[header] = typeof value === "string" ? value : String(value);
  }
  return headers;
}

/** AMQP properties of a prepared message: persistent, and mandatory unless nobody need hear it; with `replyTo` its reply names its id. */
export function publishOptions(message: PreparedMessage, replyTo?: string): Options.Publish {
  const source = message.headers["cloudEvents_source"] ?? "";
  const options: Options.Publish = {
    mandatory: message.unheard !== true,
    persistent: true,
    messageId: message.id,
    type: message.type,
    timestamp: Math.floor(Date.now() / 1_000),
    appId: source.slice(source.lastIndexOf("/") + 1, source.lastIndexOf("/") + 1 + shortStringBytesMax),
    contentType: cloudEventsContentType,
    headers: message.headers,
  };
  if (replyTo !== undefined) {
    options.replyTo = replyTo;
    options.correlationId = message.id;
  }
  return options;
}
