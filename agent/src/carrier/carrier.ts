import { randomUUID } from "node:crypto";
import type { Doorbell } from "@muster/contracts/agents";
import { runWith } from "@muster/telemetry/context";
import type { Logger } from "@muster/telemetry/logger";
import type { Claims, Grant } from "../claims/claims.ts";
import { StartRefused, failed } from "../drivers/driver.ts";
import type { Driver, Outcome, OutputSource, Running } from "../drivers/driver.ts";
import type { Drivers } from "../drivers/registry.ts";
import { AlreadyStarted } from "../drivers/already-started.ts";
import type { Journal } from "../journal/journal.ts";
import { handleOf, type AttemptKey, type AttemptRow } from "../journal/records.ts";
import { Lanes } from "../lanes/lanes.ts";
import type { OutputSender } from "../output/sender.ts";
import type { Reports } from "../reports/reports.ts";
import type { Secrets } from "../secrets/resolve.ts";
import { SessionClosed } from "../session/session.ts";
import { claimFor } from "./claim.ts";
import type { Counters } from "./counters.ts";
import { Deliveries, writeAtLast } from "./deliver.ts";
import { hold, type Held } from "./held.ts";
import { abandoned, cancelledBefore, fitting, poisonous, provesNoStart } from "./outcomes.ts";
import { provide } from "./provide.ts";
import { jittered, keepLease } from "./renew.ts";

/** The next command of a VM need not wait for ever for the last one's acknowledgement. */
const laneHoldMs = 5_000;
/** A command that was starting or running at this many crashes of its agent is not started again here. */
const crashesMax = 2;
const waitingPerVmMax = 2_000;

export type BellVerdict = "taken" | "duplicate" | "cancel" | "dropped";

export interface CarrierParts {
  readonly journal: Journal;
  readonly drivers: Drivers;
  readonly claims: Claims;
  readonly secrets: Secrets;
  readonly reports: Reports;
  readonly output: OutputSender;
  readonly counters: Counters;
  readonly logger: Logger;
}

/**
 * Carries each attempt from its doorbell to its acknowledged result:
 * journal received with the claim's nonce → claim → secrets → journal starting → start → journal started → lease and output → journal finished → result.
 * Nothing starts without a live claim, and nothing before `starting` is on disk.
 */
export class Carrier {
  readonly #parts: CarrierParts;
  readonly #lanes = new Lanes<Held>();
  readonly #held = new Map<string, Held>();
  readonly #deliveries: Deliveries;
  readonly #stop = new AbortController();
  #stopping = false;

  constructor(parts: CarrierParts) {
    this.#parts = parts;
    this.#deliveries = new Deliveries({
      journal: parts.journal,
      reports: parts.reports,
      counters: parts.counters,
      signal: this.#stop.signal,
      onDelivered: (held, stored) => this.#delivered(held, stored),
    });
  }

  /** Ids of commands that run now. */
  get running(): string[] {
    return [...this.#held.values()]
      .filter((held) => held.running !== undefined)
      .map(({ key }) => key.commandId);
  }

  setConcurrency(vmUuid: string, concurrency: number): void {
    this.#lanes.setConcurrency(vmUuid, concurrency);
    this.#pump(vmUuid);
  }

  /** Resolves when the doorbell is journaled, or needs no record. Rejects only when the agent stops. */
  async ring(bell: Doorbell): Promise<BellVerdict> {
    const verdict = await this.#take(bell);
    this.#parts.counters.doorbells.inc({ verdict });
    return verdict;
  }

  async #take(bell: Doorbell): Promise<BellVerdict> {
    const key = { commandId: bell.command_id, attempt: bell.attempt };
    const known = this.#held.get(handleOf(key));
    known?.alarm.ring();
    if (bell.kind === "cancel") return "cancel";
    if (known !== undefined) return "duplicate";
    const row = this.#parts.journal.find(key);
    if (row !== undefined && row.state !== "forgotten") return "duplicate";
    if (this.#lanes.waitingCount(bell.vm_uuid) >= waitingPerVmMax) {
      // Harmless: the next hello, or a new attempt, rings it again.
      this.#parts.logger.warn(
        { vm_uuid: bell.vm_uuid },
        "too many commands wait for this VM; a doorbell is dropped",
      );
      return "dropped";
    }
    const held = hold({ ...bell, nonce: null, token: null }, randomUUID(), this.#parts.logger);
    this.#held.set(held.handle, held);
    try {
      // The nonce is on disk before it is sent: after a crash the same nonce gets the same grant.
      const received = { kind: "received", key, bell, nonce: held.nonce } as const;
      await writeAtLast(this.#parts.journal, received, this.#stop.signal);
    } catch (error) {
      this.#held.delete(held.handle);
      throw error;
    }
    this.#lanes.add(held);
    this.#pump(held.vmUuid);
    return "taken";
  }

  /** Takes up what an earlier life of the agent left; before anything new is listened to. */
  async resume(): Promise<void> {
    const undelivered: Held[] = [];
    const vms = new Set<string>();
    const { journal } = this.#parts;
    for (const row of journal.open()) {
      const held = hold(row, randomUUID(), this.#parts.logger);
      if (row.state === "acked" || row.state === "orphaned" || row.state === "finished") {
        if (!row.output_done) this.#sendOutput(held, this.#driverOf(row)?.output(held.handle));
        if (row.state === "finished") undelivered.push(held);
        continue;
      }
      this.#held.set(held.handle, held);
      if (row.state === "received" && held.token === undefined) {
        this.#lanes.add(held);
        vms.add(held.vmUuid);
        continue;
      }
      this.#lanes.occupy(held);
      if (row.state === "received") {
        const why = "the agent died while it waited for the command's secrets, which are given once";
        void this.#guard(held, () => this.#end(held, abandoned(why), undefined));
        continue;
      }
      if (journal.afterCrash) {
        const fields = { crashes: row.crashes + 1 };
        await journal.write({ kind: "noted", key: held.key, fields }).catch(() => undefined);
      }
      void this.#guard(held, () => this.#reattach(held, row));
    }
    this.#deliveries.resume(undelivered);
    for (const vm of vms) this.#pump(vm);
  }

  #driverOf(row: AttemptRow): Driver | undefined {
    return this.#parts.drivers.all.find((driver) => driver.name === row.driver);
  }

  #pump(vmUuid: string): void {
    if (this.#stopping) return;
    for (const held of this.#lanes.take(vmUuid)) void this.#guard(held, () => this.#carry(held));
  }

  /** Runs an attempt to its end and lets the next of its VM go ahead. */
  async #guard(held: Held, work: () => Promise<void>): Promise<void> {
    try {
      await runWith({ correlationId: held.correlationId }, work);
    } catch (error) {
      // Stopping: the journal knows how far it got, and the next life of the agent goes on from there.
      if (!this.#stopping && !(error instanceof SessionClosed)) {
        held.logger.error(
          { err: error },
          "carrying this command failed; a restart of the agent takes it up again",
        );
      }
    }
    this.#lanes.release(held);
    this.#pump(held.vmUuid);
  }

  async #carry(held: Held): Promise<void> {
    const { journal } = this.#parts;
    const granted = await claimFor(held, {
      ...{ journal, claims: this.#parts.claims, counters: this.#parts.counters, signal: this.#stop.signal },
      isStopping: () => this.#stopping,
      onFirst: (bell) => void this.ring(bell).catch(() => undefined),
    });
    if (granted !== undefined && "comeAgainMs" in granted) {
      this.#comeAgain(held, granted.comeAgainMs);
      return;
    }
    if (granted === undefined) {
      this.#held.delete(held.handle);
      const forgotten = { kind: "forgotten", key: held.key, fields: { output_done: true } } as const;
      await writeAtLast(journal, forgotten, this.#stop.signal);
      return;
    }
    const { grant, sentAtMs } = granted;
    held.token = grant.token;
    held.leaseEndsMs = sentAtMs + grant.lease_ms;
    const running = await this.#start(held, grant);
    if (running !== undefined) await this.#attend(held, running, jittered(grant.lease_ms / 3));
  }

  /** Back into its lane, so that an earlier command that was heard of later can pass; then it asks again. */
  #comeAgain(held: Held, waitMs: number): void {
    this.#lanes.rest(held);
    void held.alarm.sleep(waitMs).then(() => {
      this.#lanes.wake(held);
      this.#pump(held.vmUuid);
    });
  }

  /** Undefined when it has ended without a start. What it has of secrets is let go of when this returns. */
  async #start(held: Held, grant: Grant): Promise<Running | undefined> {
    const { journal, drivers, counters } = this.#parts;
    const driver = drivers.forAction(grant.action);
    if (journal.crashesOf(held.key.commandId) >= crashesMax) {
      return this.#end(held, poisonous(crashesMax), undefined);
    }
    if (driver === undefined) {
      const error = `no driver of this agent has ${grant.action}`;
      return this.#end(held, failed("action_not_supported", "none", error), undefined);
    }
    if (this.#stopping) return this.#end(held, abandoned("the agent was stopping"), undefined);
    const provided = await provide(held, grant, driver, {
      ...{ journal, counters, secrets: this.#parts.secrets },
      keepLease: () => this.#keepLease(held, jittered(grant.lease_ms / 3)),
    });
    if ("outcome" in provided) return this.#end(held, provided, undefined);
    const { secrets, untilMs, waitedMs } = provided;
    const work = {
      ...{ handle: held.handle, commandId: held.key.commandId, action: grant.action },
      ...{ params: grant.params, timeoutMs: Math.max(1, Math.round(grant.timeout_ms - waitedMs)) },
    };
    const fields = { token: grant.token, driver: driver.name, note: driver.note(work) };
    try {
      await journal.write({ kind: "starting", key: held.key, fields });
    } catch (error) {
      held.logger.error({ err: error }, "not started: the journal cannot be written");
      return this.#end(held, abandoned("the agent's journal could not be written"), undefined);
    }
    if (held.cancelled) return this.#end(held, cancelledBefore(), undefined);
    // After the flush, not before: a slow disk may have used up the lease.
    if (this.#stopping || performance.now() >= Math.min(held.leaseEndsMs, untilMs)) {
      const why = this.#stopping ? "the agent was stopping" : "it came too late to start under its lease";
      return this.#end(held, abandoned(why), undefined);
    }
    let running: Running;
    try {
      running = await driver.start(secrets === undefined ? work : { ...work, secrets });
    } catch (error) {
      if (error instanceof AlreadyStarted) {
        await this.#found(held, driver, {});
        return undefined;
      }
      const reason = error instanceof StartRefused ? error.reason : "start_failed";
      const effect = error instanceof StartRefused ? "none" : "unknown";
      return this.#end(
        held,
        failed(reason, effect, error instanceof Error ? error.message : String(error)),
        undefined,
      );
    }
    counters.starts.inc({ action: grant.action });
    held.logger.info({ action: grant.action, handle: held.handle }, "started");
    void journal.write({ kind: "started", key: held.key }).catch(() => undefined);
    return running;
  }

  async #reattach(held: Held, row: AttemptRow): Promise<void> {
    const driver = this.#driverOf(row);
    if (driver === undefined) {
      const error = `the driver ${row.driver ?? "?"} that started it is no longer enabled`;
      return this.#end(held, failed("agent_restarted", "unknown", error), undefined);
    }
    await this.#found(held, driver, row.note ?? {});
  }

  /** Finds out what became of a start that this process did not see. */
  async #found(held: Held, driver: Driver, note: Readonly<Record<string, string>>): Promise<void> {
    const found = await driver.reattach(held.handle, held.action, note);
    held.logger.info({ state: found.state, handle: held.handle }, "found again after a restart");
    switch (found.state) {
      case "running":
        return this.#attend(held, found.running, 0);
      case "ended":
        return this.#end(held, found.outcome, found.output);
      case "not_started": {
        const poison = this.#parts.journal.crashesOf(held.key.commandId) >= crashesMax;
        const why = "the agent died before the command was started";
        return this.#end(held, poison ? poisonous(crashesMax) : abandoned(why), undefined);
      }
    }
  }

  /** Keeps the lease and sends output until the work has ended. */
  async #attend(held: Held, running: Running, renewInMs: number): Promise<void> {
    held.running = running;
    if (held.cancelled) running.stop();
    this.#sendOutput(held, running.output);
    this.#keepLease(held, renewInMs);
    const outcome = await running.outcome;
    held.running = undefined;
    this.#parts.output.nudge();
    await this.#finish(held, outcome, running.output !== undefined);
  }

  #keepLease(held: Held, renewInMs: number): void {
    void keepLease(held, renewInMs, this.#stop.signal, this.#parts);
  }

  /** An end without anything to attend to. */
  async #end(held: Held, outcome: Outcome, output: OutputSource | undefined): Promise<undefined> {
    this.#sendOutput(held, output);
    await this.#finish(held, outcome, output !== undefined);
    return undefined;
  }

  async #finish(held: Held, seen: Outcome, hasOutput: boolean): Promise<void> {
    const outcome = fitting(seen);
    held.over = true;
    if (held.leaseKept) held.alarm.ring();
    this.#parts.counters.ends.inc({ outcome: outcome.outcome, reason: outcome.reason });
    const { reason, effect, result } = outcome;
    held.logger.info({ outcome: outcome.outcome, reason, effect, exit_code: result.exit_code }, "finished");
    const fields = { outcome, token: held.token ?? null, ...(hasOutput ? {} : { output_done: true }) };
    const recorded = this.#parts.journal.write({ kind: "finished", key: held.key, fields });
    // A journal that cannot be written must not keep the result from being told.
    await recorded.catch(() => {
      void writeAtLast(
        this.#parts.journal,
        { kind: "finished", key: held.key, fields },
        this.#stop.signal,
      ).catch(() => undefined);
    });
    const delivered = this.#deliveries.deliver(held, outcome);
    let timer: NodeJS.Timeout | undefined;
    await Promise.race([
      delivered,
      new Promise<void>((resolve) => (timer = setTimeout(resolve, laneHoldMs))),
    ]);
    clearTimeout(timer);
  }

  #sendOutput(held: Held, source: OutputSource | undefined): void {
    if (source === undefined || held.token === undefined) return;
    this.#parts.output.add({ key: held.key, token: held.token, source });
  }

  #delivered(held: Held, stored: boolean): void {
    this.#held.delete(held.handle);
    if (!stored) this.#parts.output.drop(held.key);
    void this.#letGo(held.key);
  }

  /** The mesh has all output of an attempt, or takes no more of it. */
  async outputComplete(key: AttemptKey): Promise<void> {
    await writeAtLast(
      this.#parts.journal,
      { kind: "noted", key, fields: { output_done: true } },
      this.#stop.signal,
    );
    await this.#letGo(key);
  }

  /** What a run left on disk goes once result and output are with the mesh. */
  async #letGo(key: AttemptKey): Promise<void> {
    const row = this.#parts.journal.find(key);
    // A fenced folder stays until its record is pruned: a supervisor that comes late must still find it.
    if (row?.outcome != null && provesNoStart(row.outcome)) return;
    if (row?.state === "acked" && row.output_done) await this.#driverOf(row)?.forget(handleOf(key));
  }

  /** Takes nothing new, waits up to `graceMs` for what runs, leaves the rest to be found again; then flushes results. */
  async close(graceMs: number, flushMs: number): Promise<void> {
    this.#stopping = true;
    for (const held of this.#held.values()) {
      held.waiting?.abort("stopping");
      if (held.running === undefined) held.alarm.ring();
    }
    await until(() => this.running.length === 0, graceMs);
    await until(() => this.#deliveries.underWay === 0, flushMs);
    this.#stop.abort();
    for (const held of this.#held.values()) {
      held.running?.leave();
      held.alarm.ring();
    }
  }
}

/** Polls: stopping happens once, and what it waits for has many ends. */
async function until(done: () => boolean, limitMs: number): Promise<void> {
  const end = performance.now() + limitMs;
  while (!done() && performance.now() < end) await new Promise((resolve) => setTimeout(resolve, 25));
}
