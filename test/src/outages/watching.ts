import { errorCodes } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import { z } from "zod";
import type { ManagedProcess } from "../processes.ts";

const errorBody = z.object({ success: z.literal(false), error: z.object({ code: z.string() }) });
const readiness = z.object({
  ready: z.boolean(),
  dependencies: z.record(z.string(), z.object({ ok: z.boolean(), reason: z.string().optional() })),
});

/** One answer to one request; no request is ever sent twice. */
export interface Seen {
  readonly what: string;
  /** 0: the connection was refused; -1: it broke; -2: no answer came in time. */
  readonly status: number;
  readonly code: string;
  readonly retryAfter: string | null;
  readonly at: number;
}

/** Beyond the longest deadline of a request that is asked here: a request so long without an answer hangs. */
const hangsMs = 15_000;

/** Sends one request, once, and says what came back. */
export async function look(
  baseUrl: string,
  token: string,
  what: "accept" | "list" | "agents",
  vmUuid = uuidv7(),
): Promise<Seen> {
  const at = performance.now();
  const path = {
    accept: "/api/v1/vm-ops/commands",
    list: "/api/v1/vm-ops/commands?limit=1",
    agents: "/api/v1/reliability/agents",
  }[what];
  const headers = { authorization: `Bearer ${token}`, "content-type": "application/json" };
  const body = JSON.stringify({ vm_uuid: vmUuid, action: "exec", params: { program: "true" } });
  try {
    const response = await fetch(`${baseUrl}${path}`, {
      ...(what === "accept" ? { method: "POST", body } : {}),
      headers: { ...headers, ...(what === "accept" ? { "idempotency-key": uuidv7() } : {}) },
      signal: AbortSignal.timeout(hangsMs),
    });
    const text = await response.text();
    const code = response.ok ? "" : (errorBody.safeParse(JSON.parse(text)).data?.error.code ?? text);
    return { what, status: response.status, code, retryAfter: response.headers.get("retry-after"), at };
  } catch (error) {
    return { what, status: statusOf(error), code: textOf(error), retryAfter: null, at };
  }
}

function statusOf(error: unknown): number {
  if (error instanceof Error && error.name === "TimeoutError") return -2;
  return /ECONNREFUSED/.test(textOf(error)) ? 0 : -1;
}

function textOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return `${error.name} ${error.message} ${error.cause === undefined ? "" : textOf(error.cause)}`;
}

/** A stable code that may be retried, with the time after which to do so. */
export function isRetriable503({ status, code, retryAfter }: Seen): boolean {
  const meaning = Object.entries(errorCodes).find(([name]) => name === code)?.[1];
  return status === 503 && meaning?.retriable === true && Number(retryAfter) >= 1;
}

export const isFine = (seen: Seen): boolean =>
  (seen.status >= 200 && seen.status < 300) || isRetriable503(seen);

/** A `fetch` that sends each request once, to this address, and notes what came back. */
export function counting(baseUrl: string, seen: Seen[]): typeof fetch {
  return async (input, init) => {
    const url = new URL(input instanceof Request ? input.url : input);
    const what = `${init?.method ?? "GET"} ${url.pathname}`;
    const at = performance.now();
    // The caller's own patience is as long as the gateway's; here the gateway has the last word.
    const patient = { ...init, signal: AbortSignal.timeout(hangsMs) };
    try {
      const response = await fetch(new URL(url.pathname + url.search, baseUrl), patient);
      const code = response.ok
        ? ""
        : (errorBody.safeParse(await response.clone().json()).data?.error.code ?? "no code");
      seen.push({ what, status: response.status, code, retryAfter: response.headers.get("retry-after"), at });
      return response;
    } catch (error) {
      seen.push({ what, status: statusOf(error), code: textOf(error), retryAfter: null, at });
      throw error;
    }
  };
}

/** Sends requests, one after another, until it is told to stop; gives every answer. */
export function keepLooking(lookOnce: () => Promise<Seen>, pauseMs = 250): () => Promise<Seen[]> {
  const seen: Seen[] = [];
  let stopped = false;
  const looking = (async () => {
    while (!stopped) {
      seen.push(await lookOnce());
      await new Promise((resolve) => setTimeout(resolve, pauseMs));
    }
  })();
  return async () => {
    stopped = true;
    await looking;
    return seen;
  };
}

/** What a service says that it is not ready for, by name. */
export async function unready(process: ManagedProcess): Promise<Record<string, string>> {
  const response = await fetch(`${process.internalUrl}/readyz`, { signal: AbortSignal.timeout(5_000) });
  const { ready, dependencies } = readiness.parse(await response.json());
  if (ready !== (response.status === 200)) throw new Error(`ready ${String(ready)} with ${response.status}`);
  const bad = Object.entries(dependencies).filter(([, health]) => !health.ok);
  return Object.fromEntries(bad.map(([name, { reason = "" }]) => [name, reason]));
}

export async function metricOf(process: ManagedProcess, name: string): Promise<number> {
  const text = await (await fetch(`${process.internalUrl}/metrics`)).text();
  return Number(new RegExp(`^${name}(?:\\{[^}]*\\})? (\\S+)$`, "m").exec(text)?.[1] ?? Number.NaN);
}
