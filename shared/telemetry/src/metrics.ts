import { Counter, Gauge, Histogram, Registry, collectDefaultMetrics } from "prom-client";

export type { Counter, Gauge, Histogram, Registry } from "prom-client";

/** Seconds, for what takes from under a millisecond to half a minute. */
export const durationBuckets = [
  0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30,
] as const;

export interface InstrumentOptions {
  readonly name: string;
  readonly help: string;
  readonly labels?: readonly string[];
}

export interface Metrics {
  readonly registry: Registry;
  counter(o: InstrumentOptions): Counter;
  gauge(o: InstrumentOptions): Gauge;
  histogram(o: InstrumentOptions & { readonly buckets?: readonly number[] }): Histogram;
}

type Instrument = Counter | Gauge | Histogram;
interface Kept {
  readonly kind: string;
  readonly shape: string;
  readonly instrument: Instrument;
}

const nameShape = /^muster_[a-z][a-z0-9_]*$/;
const labelShape = /^[a-z][a-z0-9_]*$/;
const unboundedLabel = /^(tenant|vm|command|user|principal|subject|path|url)|(^|_)(id|ids|uuid)$/;

/**
 * One registry per process. Asking for a name again returns the same instrument; asking for it in
 * another shape throws, as do names without `muster_` and labels whose values have no bound.
 */
export function createMetrics(o: { service: string }): Metrics {
  const registry = new Registry();
  registry.setDefaultLabels({ service: o.service });
  collectDefaultMetrics({ register: registry });
  const kept = new Map<string, Kept>();

  function instrumentOf<I extends Instrument>(kind: string, asked: InstrumentOptions, make: () => I): I {
    refuseBadNames(kind, asked);
    const shape = [...(asked.labels ?? [])].sort().join();
    const before = kept.get(asked.name);
    if (before !== undefined) {
      if (before.kind !== kind || before.shape !== shape) {
        throw new Error(
          `metric ${asked.name} exists as ${before.kind}(${before.shape}), asked as ${kind}(${shape})`,
        );
      }
      return before.instrument as I;
    }
    const instrument = make();
    kept.set(asked.name, { kind, shape, instrument });
    return instrument;
  }

  const configOf = (asked: InstrumentOptions) => ({
    name: asked.name,
    help: asked.help,
    labelNames: [...(asked.labels ?? [])],
    registers: [registry],
  });
  return {
    registry,
    counter: (asked) => instrumentOf("counter", asked, () => new Counter(configOf(asked))),
    gauge: (asked) => instrumentOf("gauge", asked, () => new Gauge(configOf(asked))),
    histogram: (asked) =>
      instrumentOf(
        "histogram",
        asked,
        () => new Histogram({ ...configOf(asked), buckets: [...(asked.buckets ?? durationBuckets)] }),
      ),
  };
}

function refuseBadNames(kind: string, asked: InstrumentOptions): void {
  if (!nameShape.test(asked.name)) {
    throw new Error(`metric ${asked.name}: names read muster_thing_unit, lower case`);
  }
  if ((kind === "counter") !== asked.name.endsWith("_total")) {
    throw new Error(`metric ${asked.name}: counters end in _total, and nothing else does`);
  }
  for (const label of asked.labels ?? []) {
    if (!labelShape.test(label)) throw new Error(`metric ${asked.name}: label ${label} is not snake_case`);
    if (unboundedLabel.test(label)) {
      throw new Error(`metric ${asked.name}: label ${label} has no bounded set of values; log it instead`);
    }
  }
}
