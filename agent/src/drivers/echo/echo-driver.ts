import type { ActionName } from "@muster/contracts/actions";
import {
  emptyResult,
  failed,
  type Driver,
  type Outcome,
  type Reattached,
  type Running,
  type Work,
} from "../driver.ts";

/** For benchmarks only: answers every exec and script at once and runs nothing. Enabled by MUSTER_AGENT_DRIVERS alone. */
export class EchoDriver implements Driver {
  readonly name = "echo";
  readonly actions: readonly ActionName[] = ["exec", "script", "ping"];
  readonly takesSecrets = false;

  note(): Readonly<Record<string, string>> {
    return {};
  }

  start(work: Work): Promise<Running> {
    const result = { ...emptyResult, exit_code: 0, run_ms: 0, data: { echo: work.action } };
    const outcome: Outcome = { outcome: "succeeded", reason: "completed", effect: "none", result };
    return Promise.resolve({
      outcome: Promise.resolve(outcome),
      stop: () => undefined,
      leave: () => undefined,
      output: undefined,
    });
  }

  reattach(): Promise<Reattached> {
    const outcome = failed("agent_restarted", "none", "the agent was restarted before the action was done");
    return Promise.resolve({ state: "ended", outcome, output: undefined });
  }

  output(): undefined {
    return undefined;
  }

  forget(): Promise<void> {
    return Promise.resolve();
  }

  probe(): Promise<Record<string, unknown>> {
    return Promise.resolve({});
  }
}
