import { z } from "zod";

/**
 * Limits by name, and what each counts. Bounds are settings of whoever owns the request that declares them. What counts
 * failures never refuses who holds the credential, unless by the address that the failures came from.
 */
export const limits = {
  "failures-by-address": { counts: "failures", by: "address" },
  "failures-by-credential": { counts: "failures", by: "credential" },
  "tokens-by-principal": { counts: "tokens", by: "principal" },
  "tokens-by-tenant": { counts: "tokens", by: "tenant" },
  /** Apart from the others: a fleet that comes back at once takes nothing from its tenant's people. */
  "agent-tokens-by-tenant": { counts: "tokens", by: "tenant" },
} as const;
export type LimitName = keyof typeof limits;
export const limitNames = Object.keys(limits) as LimitName[];

/** The client's IP address as the gateway knows it. Where there is none, nothing is counted by address. */
export const clientAddress = z
  .string()
  .regex(/^[0-9a-f][0-9a-f.:]{1,44}$|^::[0-9a-f.:]{0,43}$/, "must be an IP address in lower case");
