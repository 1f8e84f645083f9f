/** Bounds of one HTTP server. */
export interface HttpLimits {
  readonly connectionsMax: number;
  /** Requests being handled at once; more are answered 503 BACKPRESSURE. Streams do not count. */
  readonly inFlightMax: number;
  readonly streamsMax: number;
  readonly headersBytesMax: number;
  readonly headersTimeoutMs: number;
  /** For a whole request to arrive. */
  readonly requestTimeoutMs: number;
  readonly connectionsCheckMs: number;
  readonly keepAliveTimeoutMs: number;
  /** For a handler to answer. */
  readonly handlerTimeoutMs: number;
  readonly retryAfterMs: number;
  readonly streamKeepAliveMs: number;
  readonly streamStallMs: number;
}

export const httpLimits: HttpLimits = {
  connectionsMax: 10_000,
  inFlightMax: 1_000,
  streamsMax: 2_000,
  headersBytesMax: 16 * 1024,
  headersTimeoutMs: 10_000,
  requestTimeoutMs: 30_000,
  connectionsCheckMs: 2_000,
  keepAliveTimeoutMs: 30_000,
  handlerTimeoutMs: 60_000,
  retryAfterMs: 1_000,
  streamKeepAliveMs: 15_000,
  streamStallMs: 60_000,
};
