import type { Client } from "@muster/client/client";
import { MusterError } from "@muster/contracts/errors";
import type { RequestBody } from "./orders.ts";

export type Answered =
  | { readonly kind: "accepted"; readonly id: string }
  /** No answer says that nothing was written. */
  | { readonly kind: "maybe"; readonly why: string }
  | { readonly kind: "refused"; readonly code: string };

const pauseMs = 100;

/**
 * Sends one request under one idempotency key until an answer decides it or the time is over.
 * `client` must not retry by itself: each request is counted here.
 */
export async function submit(
  client: Client,
  body: RequestBody,
  idempotencyKey: string,
  withinMs: number,
): Promise<Answered> {
  const until = performance.now() + withinMs;
  let maybe = false;
  for (;;) {
    const last = await once(client, body, idempotencyKey);
    if (last.kind === "accepted") return last;
    // A refusal after a request without an answer decides nothing: the first one may have been accepted.
    if (last.kind === "refused" && !maybe) return last;
    maybe = true;
    if (performance.now() >= until) {
      return { kind: "maybe", why: last.kind === "refused" ? last.code : last.why };
    }
    await new Promise((resolve) => setTimeout(resolve, pauseMs));
  }
}

async function once(client: Client, body: RequestBody, idempotencyKey: string): Promise<Answered> {
  try {
    const { data } = await client.acceptCommand({ body, idempotencyKey });
    return { kind: "accepted", id: data.command.id };
  } catch (error) {
    if (!(error instanceof MusterError)) throw error;
    return error.retriable ? { kind: "maybe", why: error.code } : { kind: "refused", code: error.code };
  }
}

/** Asks for a cancel until an answer comes; an end that came first is an answer. */
export async function cancel(client: Client, id: string, withinMs: number): Promise<void> {
  const until = performance.now() + withinMs;
  for (;;) {
    try {
      await client.cancelCommand({ params: { id }, body: {} });
      return;
    } catch (error) {
      if (error instanceof MusterError && error.code === "TOO_LATE") return;
      if (!(error instanceof MusterError && error.retriable) || performance.now() >= until) throw error;
      await new Promise((resolve) => setTimeout(resolve, pauseMs));
    }
  }
}
