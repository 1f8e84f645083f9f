import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import { Carrier } from "./carrier/carrier.ts";
import { createCounters } from "./carrier/counters.ts";
import { Claims } from "./claims/claims.ts";
import { Doorbells } from "./doorbells/doorbells.ts";
import { bootId } from "./drivers/process/procfs.ts";
import type { Drivers } from "./drivers/registry.ts";
import { Heartbeat } from "./heartbeat/heartbeat.ts";
import { pruneRowsMax, type Journal } from "./journal/journal.ts";
import { handleOf } from "./journal/records.ts";
import { OutputSender } from "./output/sender.ts";
import { Reports } from "./reports/reports.ts";
import type { Secrets } from "./secrets/resolve.ts";
import { Session, type Greeting } from "./session/session.ts";
import type { BellDelivery, Transport } from "./transport/transport.ts";

const pruneMs = 3_600_000;
const openMax = 1_000;

export interface AgentParts {
  /** The VMs that it may serve now. */
  readonly vmUuids: () => readonly string[];
  readonly version: string;
  readonly journal: Journal;
  readonly drivers: Drivers;
  readonly transport: Transport;
  readonly secrets: Secrets;
  readonly logger: Logger;
  readonly metrics: Metrics;
  /** Waited for running commands at a stop, then for their results to be acknowledged. */
  readonly stopGraceMs: number;
  readonly flushMs: number;
  /** A newer session of this agent was accepted: this process must end. */
  readonly onSuperseded: () => void;
}

export interface Agent {
  health(): { ok: boolean; reason?: string };
  /** Says hello again where they have. */
  vmsMayHaveChanged(): void;
  close(): Promise<void>;
}

/** Wires the agent's parts; resolves when what an earlier life left is taken up again. */
export async function openAgent(parts: AgentParts): Promise<Agent> {
  const wired = new WiredAgent(parts);
  await wired.start();
  return wired;
}

class WiredAgent implements Agent {
  readonly #parts: AgentParts;
  readonly #session: Session;
  readonly #carrier: Carrier;
  readonly #output: OutputSender;
  readonly #doorbells: Doorbells;
  readonly #heartbeat: Heartbeat;
  /** As the last hello had them. */
  #named: readonly string[] = [];
  #stopping = false;
  #closing: Promise<void> | undefined;
  #pruning: NodeJS.Timeout | undefined;

  constructor(parts: AgentParts) {
    this.#parts = parts;
    const { journal, logger, transport, drivers } = parts;
    this.#session = new Session({
      ...{ transport, journal, logger },
      facts: () => ({
        version: parts.version,
        boot_id: bootId(),
        vm_uuids: (this.#named = [...parts.vmUuids()]),
        drivers: drivers.all.map(({ name, actions }) => ({ name, actions: [...actions] })),
        open: journal.unsettled(openMax),
      }),
      onGreeting: (greeting) => this.#greeted(greeting),
      onSuperseded: parts.onSuperseded,
    });
    const session = this.#session;
    this.#output = new OutputSender({
      ...{ session, logger },
      onComplete: (key) => {
        this.#carrier.outputComplete(key).catch((error: unknown) => {
          if (!this.#stopping) logger.warn({ err: error }, "what a finished run left could not be let go of");
        });
      },
    });
    this.#carrier = new Carrier({
      ...{ journal, drivers, logger, output: this.#output },
      claims: new Claims(session),
      secrets: parts.secrets,
      reports: new Reports(session),
      counters: createCounters(parts.metrics),
    });
    this.#doorbells = new Doorbells({ transport, logger, onBell: (delivery) => void this.#rang(delivery) });
    this.#heartbeat = new Heartbeat({
      ...{ transport, logger },
      session: () => session.current,
      facts: () => this.#heartbeatFacts(),
      onOutdated: (generation) => session.outdated(generation),
    });
  }

  async start(): Promise<void> {
    const { journal, logger } = this.#parts;
    if (journal.afterCrash) logger.warn("the agent before this one ended without stopping");
    this.#prune();
    this.#pruning = setInterval(() => this.#prune(), pruneMs);
    journal.onState(() => {
      const reason = journal.unwritable;
      if (reason === undefined) logger.info("the journal can be written again");
      else logger.error({ reason }, "degraded(journal): nothing is claimed until it can be written");
      this.#heartbeat.now();
    });
    this.#output.start();
    await this.#carrier.resume();
    this.#session.start();
    this.#heartbeat.start();
  }

  #greeted(greeting: Greeting): void {
    for (const vm of greeting.vms) this.#carrier.setConcurrency(vm.vm_uuid, vm.concurrency);
    this.#doorbells.serve(greeting.vms.map(({ vm_uuid }) => vm_uuid));
    this.#heartbeat.greeted(greeting.heartbeat_ms);
    for (const bell of greeting.pending) {
      this.#carrier.ring(bell).catch((error: unknown) => this.#unheard(error));
    }
  }

  async #rang({ bell, accept }: BellDelivery): Promise<void> {
    try {
      await this.#carrier.ring(bell);
      accept();
    } catch (error) {
      // Not acknowledged: the queue keeps it for the agent's next life.
      this.#unheard(error);
    }
  }

  #unheard(error: unknown): void {
    if (!this.#stopping) this.#parts.logger.error({ err: error }, "a doorbell was not taken");
  }

  #heartbeatFacts() {
    const { journal, drivers, version } = this.#parts;
    const { starts, doubleStarts } = journal.counts;
    return {
      version,
      drivers: drivers.all.map(({ name }) => name),
      vm_uuids: this.#doorbells.vmUuids.slice(0, 500),
      running: this.#carrier.running.slice(0, 1_000),
      journal: {
        writable: journal.unwritable === undefined,
        starts,
        double_starts: doubleStarts,
        unacknowledged_results: journal.unacknowledgedResults(),
      },
      stopping: this.#stopping,
    };
  }

  /** Some rows at a time, with room for other work between. */
  #prune(): void {
    const { journal, drivers, logger } = this.#parts;
    if (this.#stopping) return;
    try {
      const keys = journal.prune();
      for (const key of keys) {
        for (const driver of drivers.all) {
          driver.forget(handleOf(key)).catch((error: unknown) => {
            logger.warn({ err: error }, "an old run could not be removed");
          });
        }
      }
      if (keys.length === pruneRowsMax) setImmediate(() => this.#prune());
    } catch (error) {
      logger.warn({ err: error }, "old records could not be pruned");
    }
  }

  health(): { ok: boolean; reason?: string } {
    const unwritable = this.#parts.journal.unwritable;
    if (unwritable !== undefined) return { ok: false, reason: `degraded(journal): ${unwritable}` };
    const state = this.#session.state;
    return state === "open" ? { ok: true } : { ok: false, reason: `the session is ${state}` };
  }

  vmsMayHaveChanged(): void {
    const before = new Set(this.#named);
    const now = this.#parts.vmUuids();
    if (now.length !== before.size || now.some((vm) => !before.has(vm))) this.#session.refresh();
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.#stopping = true;
    clearInterval(this.#pruning);
    await this.#doorbells.close();
    await this.#carrier.close(this.#parts.stopGraceMs, this.#parts.flushMs);
    if (this.#session.state === "open") {
      const bound = new Promise<void>((resolve) => setTimeout(resolve, this.#parts.flushMs).unref());
      await Promise.race([this.#heartbeat.send().catch(() => undefined), bound]);
    }
    await this.#session.close();
    await Promise.all([this.#output.close(), this.#heartbeat.close()]);
  }
}
