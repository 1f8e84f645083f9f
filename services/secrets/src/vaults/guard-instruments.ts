import type { Metrics } from "@muster/telemetry/metrics";
import type { Outcome } from "./outcome.ts";

const states = ["closed", "half_open", "open"] as const;

export interface GuardInstruments {
  count(operation: string, outcome: Outcome): void;
  observe(operation: string, seconds: number): void;
  breaker(state: (typeof states)[number]): void;
  inFlight(calls: number): void;
}

export function guardInstruments(metrics: Metrics): GuardInstruments {
  const calls = metrics.counter({
    name: "muster_secrets_vault_calls_total",
    help: "Calls of the vault by what became of them; open and busy never reached it",
    labels: ["operation", "outcome"],
  });
  const seconds = metrics.histogram({
    name: "muster_secrets_vault_seconds",
    help: "How long whoever asked the vault waited",
    labels: ["operation"],
  });
  const breaker = metrics.gauge({
    name: "muster_secrets_vault_breaker_state",
    help: "1 for the state that the vault's breaker is in",
    labels: ["state"],
  });
  const inFlight = metrics.gauge({
    name: "muster_secrets_vault_in_flight",
    help: "Calls that the vault has not ended, those included that nobody waits for any more",
  });
  return {
    count: (operation, outcome) => calls.inc({ operation, outcome }),
    observe: (operation, took) => seconds.observe({ operation }, took),
    breaker(state) {
      for (const one of states) breaker.set({ state: one }, one === state ? 1 : 0);
    },
    inFlight: (now) => inFlight.set(now),
  };
}
