import { settings as reliability } from "@muster/reliability/config";
import type { Setting } from "@muster/service/settings";
import { settings as vmOps } from "@muster/vm-ops/config";

const tenMinutesMs = 600_000;

/** How long the tests take something away. */
export const outageMs = 64_000;

interface Compressed {
  readonly setting: Setting;
  readonly ms: number;
}

/** What time is measured in, and to what each is compressed. */
const compressed = {
  MUSTER_VMOPS_LEASE_MS: { setting: vmOps.MUSTER_VMOPS_LEASE_MS, ms: 6_000 },
  MUSTER_RELIABILITY_HEARTBEAT_MS: { setting: reliability.MUSTER_RELIABILITY_HEARTBEAT_MS, ms: 1_500 },
  MUSTER_RELIABILITY_SUSPECT_AFTER_MS: {
    setting: reliability.MUSTER_RELIABILITY_SUSPECT_AFTER_MS,
    ms: 4_500,
  },
  MUSTER_RELIABILITY_LOST_AFTER_MS: { setting: reliability.MUSTER_RELIABILITY_LOST_AFTER_MS, ms: 12_000 },
  MUSTER_VMOPS_RUNNING_MAX_MS: { setting: reliability.MUSTER_VMOPS_RUNNING_MAX_MS, ms: 60_000 },
  MUSTER_VMOPS_DISPATCHED_MAX_MS: { setting: reliability.MUSTER_VMOPS_DISPATCHED_MAX_MS, ms: 15_000 },
  MUSTER_RELIABILITY_SWEEP_INTERVAL_MS: {
    setting: reliability.MUSTER_RELIABILITY_SWEEP_INTERVAL_MS,
    ms: 500,
  },
} as const satisfies Record<string, Compressed>;
export type Unit = keyof typeof compressed;
const requeuesMax = 1;

export const units = Object.keys(compressed) as Unit[];

/** How many of this unit ten minutes are with the defaults, and how many the outage of the tests is. */
export function ratioOf(unit: Unit): { readonly real: number; readonly here: number } {
  const { setting, ms } = compressed[unit];
  return { real: tenMinutesMs / Number(setting.default), here: outageMs / ms };
}

/** Whether the setting takes no smaller value: time cannot be compressed further honestly. */
export function atItsBound(unit: Unit): boolean {
  const { setting, ms } = compressed[unit];
  return setting.schema.safeParse(String(ms)).success && !setting.schema.safeParse(String(ms - 1)).success;
}

/** How often in the outage a command could be given up that nobody claims. */
export const givenUpTimes = outageMs / (compressed.MUSTER_VMOPS_DISPATCHED_MAX_MS.ms * (requeuesMax + 1));

const all = Object.fromEntries(units.map((unit) => [unit, String(compressed[unit].ms)]));

/** The settings of every service in these tests. */
export const scaled = {
  "vm-ops": {
    MUSTER_VMOPS_LEASE_MS: all.MUSTER_VMOPS_LEASE_MS ?? "",
    MUSTER_RELIABILITY_HEARTBEAT_MS: all.MUSTER_RELIABILITY_HEARTBEAT_MS ?? "",
  },
  reliability: {
    ...all,
    MUSTER_VMOPS_DISPATCH_MAX_REQUEUES: String(requeuesMax),
    MUSTER_RELIABILITY_AUDIT_INTERVAL_MS: "1000",
  },
};
