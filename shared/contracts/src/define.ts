import { z } from "zod";
import type { ErrorCode } from "./errors.ts";
import { limits, type LimitName } from "./limits.ts";

/** Everything that owns messages. The gateway owns none; it only asks. */
export const services = ["gateway", "auth", "vm-ops", "reliability", "secrets"] as const;
export type Service = (typeof services)[number];

/** Largest message body that any contract may allow; RabbitMQ 4 refuses above 16 MiB. */
export const messageBytesMax = 8 * 1024 * 1024;

/** Retry tiers of the ladder and how long each waits. Beyond the last it is a row and a sweep. */
export const retryTiers = { "1s": 1_000, "10s": 10_000, "1m": 60_000, "10m": 600_000 } as const;
export type RetryTier = keyof typeof retryTiers;

/** What becomes of a message whose handler failed for a passing reason: one tier per attempt, then the dead letters. */
export interface RetryPolicy {
  readonly tiers: readonly RetryTier[];
}

/** Up to `sizeMax` messages, or what came within `waitMs` of the first (0: with it), handled in one transaction. */
export interface BatchPolicy {
  readonly sizeMax: number;
  readonly waitMs: number;
}

interface MessageBase<P extends z.ZodType> {
  /** Wire name with owner and version; never follows a function's name. */
  readonly name: string;
  readonly summary: string;
  readonly payload: P;
  readonly payloadBytesMax: number;
}

/** A fact, past tense, declared by its publisher. */
export interface EventContract<P extends z.ZodType = z.ZodType> extends MessageBase<P> {
  readonly kind: "event";
  readonly owner: Service;
  /** Published for consumers outside this repository: may have no subscription here. */
  readonly external: boolean;
}

/** Asks one service, gets one reply. */
export interface RequestContract<
  P extends z.ZodType = z.ZodType,
  R extends z.ZodType = z.ZodType,
> extends MessageBase<P> {
  readonly kind: "request";
  readonly owner: Service;
  readonly reply: R;
  /** Codes that the owner may answer with, besides those that any request may get (`commonRequestCodes`). */
  readonly codes: readonly ErrorCode[];
  readonly timeoutMs: number;
  /** Without an identity only services ask it (sweeps, key sets); with one, the asker vouches for a caller. */
  readonly identity: "caller" | "none";
  /** Who may ask: the broker refuses everybody else. */
  readonly callers: readonly Service[];
  /** What the owner counts before it answers; beyond a limit it says RATE_LIMITED. */
  readonly limits: readonly LimitName[];
  readonly batch?: BatchPolicy;
}

/** What an agent sends: a request to the mesh through `muster.agents`, tenant and agent in the routing key. */
export interface ReportContract<
  P extends z.ZodType = z.ZodType,
  R extends z.ZodType = z.ZodType,
> extends MessageBase<P> {
  readonly kind: "report";
  readonly owner: Service;
  /** Last word of the routing key `agents.<tenant>.<agent_id>.<report>`. */
  readonly report: string;
  readonly reply: R;
  readonly codes: readonly ErrorCode[];
  readonly timeoutMs: number;
  readonly batch: BatchPolicy;
}

/** Rings in one VM's durable queue: a hint that something waits there, never the thing itself. */
export interface DoorbellContract<P extends z.ZodType = z.ZodType> extends MessageBase<P> {
  readonly kind: "doorbell";
  readonly owner: Service;
}

export type Contract = EventContract | RequestContract | ReportContract | DoorbellContract;

export type PayloadOf<C extends { payload: z.ZodType }> = z.output<C["payload"]>;
export type PayloadInputOf<C extends { payload: z.ZodType }> = z.input<C["payload"]>;
export type ReplyOf<C extends { reply: z.ZodType }> = z.output<C["reply"]>;
export type ReplyInputOf<C extends { reply: z.ZodType }> = z.input<C["reply"]>;

/** A service's durable interest in events of others: one quorum queue `<service>.<name>`. */
export interface Subscription<E extends Record<string, EventContract> = Record<string, EventContract>> {
  readonly service: Service;
  readonly name: string;
  readonly summary: string;
  /** Handler key → event; the consumer must have a handler for each. */
  readonly events: E;
  readonly prefetch: number;
  readonly batch: BatchPolicy;
  readonly retry: RetryPolicy;
}

/** Codes that any request may be answered with. */
export const commonRequestCodes = [
  "VALIDATION_FAILED",
  "CONTRACT_VIOLATION",
  "UNSUPPORTED_MESSAGE",
  "INVALID_OR_MISSING_BEARER_TOKEN",
  "MISSING_BEARER_TOKEN",
  "FORBIDDEN",
  "DEADLINE_EXCEEDED",
  "DEPENDENCY_UNAVAILABLE",
  "BACKPRESSURE",
  "DRAINING",
  "INTERNAL",
] as const satisfies readonly ErrorCode[];

const wireName = /^[a-z][a-z-]*(\.[a-z][a-z-]*)+\.v[1-9][0-9]*$/;

function checked<C extends Contract>(contract: C): C {
  if (!wireName.test(contract.name)) {
    throw new Error(`${contract.name}: a wire name reads owner.noun.fact.v1, lower case`);
  }
  if (!contract.name.startsWith(`${contract.owner}.`)) {
    throw new Error(`${contract.name}: a wire name starts with its owner, ${contract.owner}`);
  }
  if (contract.payloadBytesMax < 1 || contract.payloadBytesMax > messageBytesMax) {
    throw new Error(`${contract.name}: payloadBytesMax must be 1 to ${messageBytesMax}`);
  }
  return Object.freeze(contract);
}

export function defineEvent<P extends z.ZodType>(
  contract: Omit<EventContract<P>, "kind" | "external" | "payloadBytesMax"> & {
    external?: boolean;
    payloadBytesMax?: number;
  },
): EventContract<P> {
  return checked({ payloadBytesMax: 64 * 1024, external: false, ...contract, kind: "event" });
}

type RequestInput<P extends z.ZodType, R extends z.ZodType> = Omit<
  RequestContract<P, R>,
  "kind" | "payloadBytesMax" | "timeoutMs" | "identity" | "callers" | "limits" | "batch"
> &
  Partial<Pick<RequestContract<P, R>, "payloadBytesMax" | "timeoutMs" | "identity" | "callers" | "limits">>;

const requestDefaults = {
  payloadBytesMax: 64 * 1024,
  timeoutMs: 10_000,
  identity: "caller",
  callers: ["gateway"],
  limits: [],
} as const;

function asRequest<C extends RequestContract>(contract: C): C {
  const { name, codes, payload } = contract;
  if (contract.limits.length === 0) return checked(contract);
  if (contract.limits.some((limit) => limits[limit].by === "address") && !namesAddress(payload)) {
    throw new Error(`${name}: what is limited by address has client_address in its payload`);
  }
  return checked({ ...contract, codes: [...codes, "RATE_LIMITED"] });
}

function namesAddress(payload: z.ZodType): boolean {
  return payload instanceof z.ZodObject && "client_address" in payload.shape;
}

/** A request whose owner answers one at a time. */
export function defineRequest<P extends z.ZodType, R extends z.ZodType>(
  contract: RequestInput<P, R>,
): RequestContract<P, R> & { readonly batch?: never } {
  return asRequest({ ...requestDefaults, ...contract, kind: "request" });
}

/** A request whose owner answers many in one transaction, each as if alone. */
export function defineBatchRequest<P extends z.ZodType, R extends z.ZodType>(
  contract: RequestInput<P, R> & { readonly batch: BatchPolicy },
): RequestContract<P, R> & { readonly batch: BatchPolicy } {
  return asRequest({ ...requestDefaults, ...contract, kind: "request" });
}

export function defineReport<P extends z.ZodType, R extends z.ZodType>(
  contract: Omit<ReportContract<P, R>, "kind" | "payloadBytesMax" | "timeoutMs"> & {
    payloadBytesMax?: number;
    timeoutMs?: number;
  },
): ReportContract<P, R> {
  return checked({ payloadBytesMax: 1024 * 1024, timeoutMs: 10_000, ...contract, kind: "report" });
}

export function defineDoorbell<P extends z.ZodType>(
  contract: Omit<DoorbellContract<P>, "kind" | "payloadBytesMax"> & { payloadBytesMax?: number },
): DoorbellContract<P> {
  return checked({ payloadBytesMax: 8 * 1024, ...contract, kind: "doorbell" });
}

export function defineSubscription<E extends Record<string, EventContract>>(
  subscription: Omit<Subscription<E>, "prefetch" | "batch" | "retry"> &
    Partial<Pick<Subscription<E>, "prefetch" | "batch" | "retry">>,
): Subscription<E> {
  const retry: RetryPolicy = { tiers: ["1s", "10s", "1m", "10m"] };
  return Object.freeze({ prefetch: 100, batch: { sizeMax: 50, waitMs: 5 }, retry, ...subscription });
}
