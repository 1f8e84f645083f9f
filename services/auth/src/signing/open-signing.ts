import type { Tx } from "@muster/database/database";
import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import { keepKeys, sealAnew } from "./keep.ts";
import type { Keeping } from "./keep.ts";
import { openedKey } from "./key-pair.ts";
import type { SigningKey } from "./key-pair.ts";
import { findActiveKid, takeUpActive } from "./store.ts";

export interface SigningOptions extends Keeping {
  /** How often this process looks whether something is due. */
  readonly lookMs: number;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

export interface SigningKeys {
  /** Which key signs, as this transaction sees it. */
  activeKid(tx: Tx): Promise<string>;
  /** The key of this kid; where it signs no more, the one that does. */
  keyOf(kid: string): Promise<SigningKey>;
  close(): Promise<void>;
}

/**
 * Makes the keys that are missing, and keeps them from then on. Throws when the active key cannot be opened: the
 * sealing key is another one.
 */
export async function openSigning(o: SigningOptions): Promise<SigningKeys> {
  const changes = o.metrics.counter({
    name: "muster_auth_signing_key_steps_total",
    help: "Steps in the life of signing keys that this process took",
    labels: ["step"],
  });
  async function look(): Promise<void> {
    for (const { kind } of await keepKeys(o)) {
      changes.inc({ step: kind });
      o.logger.info({ kind: o.kind, step: kind }, "signing keys changed");
    }
  }
  const taken = openTaken(o);
  const kids = await sealAnew(o);
  if (kids.length > 0) o.logger.info({ kids, sealed_with: o.sealer.id }, "signing keys were sealed anew");
  await look();
  const { kid } = await taken.current();
  o.logger.info({ kind: o.kind, kid }, "signs with this key");
  const looking = repeat(look, o);
  return {
    async activeKid(tx) {
      const kid = await findActiveKid(tx, o.kind);
      if (kid === undefined) throw new Error("no key signs");
      return kid;
    },
    keyOf: (kid) => taken.keyOf(kid),
    close: () => looking.stop(),
  };
}

/** The key that this process signs with. It is known only once the row knows how long its tokens live. */
function openTaken({ kind, database, sealer, tokenTtlSeconds }: Keeping) {
  let known: SigningKey | undefined;
  let flight: Promise<SigningKey> | undefined;

  async function take(): Promise<SigningKey> {
    const row = await database.transaction("system", (tx) => takeUpActive(tx, kind, tokenTtlSeconds));
    if (row === undefined) throw new Error("no key signs");
    return (known = openedKey(row, sealer));
  }
  const current = () => (flight ??= take().finally(() => (flight = undefined)));
  return {
    current,
    async keyOf(kid: string): Promise<SigningKey> {
      if (known?.kid === kid) return known;
      const joined = await current();
      // What was under way when we came may be older than what we were told.
      return joined.kid === kid ? joined : await current();
    },
  };
}

function repeat(work: () => Promise<void>, o: { lookMs: number; logger: Logger }) {
  let stopped = false;
  let timer: NodeJS.Timeout | undefined;
  let running: Promise<void> = Promise.resolve();
  let failing = false;

  async function once(): Promise<void> {
    try {
      await work();
      failing = false;
    } catch (error) {
      const level = failing ? "debug" : "warn";
      o.logger[level]({ err: error }, "signing keys could not be kept; it is tried again");
      failing = true;
    }
    arm();
  }
  function arm(): void {
    if (stopped) return;
    timer = setTimeout(() => {
      running = once();
    }, o.lookMs);
  }
  arm();
  return {
    async stop() {
      stopped = true;
      clearTimeout(timer);
      await running;
    },
  };
}
