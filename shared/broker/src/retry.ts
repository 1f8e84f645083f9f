import type { RetryTier, Service } from "@muster/contracts/define";
import type { Envelope } from "@muster/contracts/envelope";
import type { PreparedMessage } from "@muster/contracts/message";
import { retryExchange, deadLettersExchange } from "@muster/contracts/topology";
import { childTraceparent } from "@muster/telemetry/context";
import { errorCodeOf } from "./failure-policy.ts";
import { prepareCopy } from "./prepare.ts";

/** Headers of a message that failed: the code, when (RFC 3339), the queue it is retried for, and why in words. */
export const failureHeaders = {
  code: "x-muster-error-code",
  failedAt: "x-muster-failed-at",
  retryOf: "x-muster-retry-of",
  message: "x-muster-error-message",
} as const;

const messageLengthMax = 500;

interface Failure {
  readonly envelope: Envelope;
  readonly attempt: number;
  readonly error: unknown;
  /** Where it was consumed, and where a retry comes back to. */
  readonly queue: string;
  readonly now: Date;
}

/** The copy that waits in a tier's queue; its routing key survives dead-lettering and leads back to the queue. */
export function retryCopy(failure: Failure, service: Service, tier: RetryTier): PreparedMessage {
  return copyOf(failure, retryExchange(service, tier), failure.attempt + 1);
}

/** The copy for the dead letters: as the consumer's reject would route it, but with the reason. */
export function deadLetterCopy(failure: Failure): PreparedMessage {
  return copyOf(failure, deadLettersExchange, failure.attempt);
}

function copyOf(failure: Failure, exchange: string, attempt: number): PreparedMessage {
  const { envelope, error, queue, now } = failure;
  const words = error instanceof Error ? error.message : String(error);
  const traceparent = childTraceparent(envelope.traceparent);
  const headers = {
    [failureHeaders.code]: errorCodeOf(error),
    [failureHeaders.failedAt]: now.toISOString(),
    [failureHeaders.retryOf]: queue,
    [failureHeaders.message]: words.slice(0, messageLengthMax),
  };
  return prepareCopy(envelope, { attempt, traceparent }, { exchange, routingKey: queue, headers });
}
