import { z } from "zod";
import { tenantId, timestamp } from "./ids.ts";

/**
 * The envelope of every message: CloudEvents 1.0, structured JSON mode
 * (content type `application/cloudevents+json`), with our extension attributes in lower case.
 * Every attribute is mirrored as a scalar AMQP header `cloudEvents_<name>`.
 */
export const cloudEventsContentType = "application/cloudevents+json; charset=utf-8";

export const headerPrefixes = ["cloudEvents_", "cloudEvents:", "ce-"] as const;

/** W3C trace context, https://www.w3.org/TR/trace-context/ */
export const traceparent = z.string().regex(/^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$/);

/** Ids that people or other systems chose: visible ASCII, bounded. */
export const correlationId = z.string().regex(/^[\x21-\x7e]{1,128}$/);

export const envelope = z.object({
  specversion: z.literal("1.0"),
  /** The same across redelivery, resend, retry and replay. */
  id: z.string().min(1).max(128),
  /** `/muster/<service>` or `/muster/agents/<tenant>/<agent>`; others' messages carry their own URI. */
  source: z.string().min(1).max(512),
  /** The contract's wire name. */
  type: z.string().min(1).max(255),
  subject: z.string().min(1).max(512).optional(),
  time: timestamp,
  datacontenttype: z.literal("application/json"),
  tenantid: tenantId.optional(),
  /** Deliveries of this message by our own retries, from 1. */
  attempt: z.number().int().min(1).max(1_000).optional(),
  correlationid: correlationId.optional(),
  /** Id of the message that caused this one. */
  causationid: z.string().min(1).max(128).optional(),
  /** Requests: how long the asker waits from `time`, in milliseconds; a later answer is of no use. */
  timeoutms: z.number().int().min(1).max(600_000).optional(),
  traceparent: traceparent.optional(),
  /** Whom the asking service asks for, by its token for this request: a consumer that needs a tenant takes it from there. */
  identity: z.string().max(4_096).optional(),
  data: z.unknown(),
});
export type Envelope = z.infer<typeof envelope>;

/** Attributes that are mirrored as headers; `data` and `identity` never are. */
export const mirroredAttributes = [
  "specversion",
  "id",
  "source",
  "type",
  "subject",
  "time",
  "datacontenttype",
  "tenantid",
  "attempt",
  "correlationid",
  "causationid",
  "timeoutms",
  "traceparent",
] as const satisfies readonly (keyof Envelope)[];

/** A reply on direct reply-to: `type` is the request's name with `.reply`, `causationid` the request's id. */
export const replyType = (requestName: string): string => `${requestName}.reply`;

export const replyBody = z.discriminatedUnion("ok", [
  z.object({ ok: z.literal(true), result: z.unknown() }),
  z.object({ ok: z.literal(false), error: z.unknown() }),
]);
export type ReplyBody = z.infer<typeof replyBody>;

/** What runs along with a piece of work, from HTTP through messages to the agent's log. */
export interface WorkContext {
  readonly correlationId: string;
  readonly causationId?: string | undefined;
  readonly traceparent?: string | undefined;
  readonly tenantId?: string | undefined;
  /** Who is asked for: at the gateway's door an access token, on the mesh the asking service's token for one request. */
  readonly identity?: string | undefined;
}
