/** A message ready for the wire: validated, enveloped, addressed. The outbox keeps it, the broker publishes it. */
export interface PreparedMessage {
  readonly id: string;
  /** Wire name. */
  readonly type: string;
  /** "" is the default exchange: the routing key is the queue. */
  readonly exchange: string;
  readonly routingKey: string;
  /** Messages of one key are published in the order of their writing; null where order does not matter. */
  readonly orderingKey: string | null;
  readonly tenantId: string | null;
  /** The envelope as JSON text. */
  readonly body: string;
  /** Scalar strings only. */
  readonly headers: Readonly<Record<string, string>>;
  /** True where it is of no concern that no queue takes it: an event for consumers outside. Absent: a queue must. */
  readonly unheard?: true;
}

/** What became of a publish. Only `routed` means that a queue has it, or that none need have it. */
export type PublishVerdict =
  | { readonly kind: "routed" }
  | { readonly kind: "unroutable"; readonly reason: string }
  | { readonly kind: "nacked"; readonly reason: string }
  | { readonly kind: "refused"; readonly reason: string }
  | { readonly kind: "unknown"; readonly reason: string };
