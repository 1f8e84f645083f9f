import { eventually, eventuallyHolds } from "@muster/testing/eventually";
import type { ServiceName, System } from "../system.ts";
import { inEveryState } from "./every-state.ts";
import { outageMs } from "./scale.ts";
import { keepLooking, look, metricOf, unready, type Seen } from "./watching.ts";

/** What is taken away, and how the system says so. */
export interface Taken {
  gone(): Promise<unknown>;
  back(): Promise<unknown>;
  /** Service → dependency that it must name while it lasts. */
  readonly named: Partial<Record<ServiceName, string>>;
  /** Whether leases are forgiven afterwards. */
  readonly amnesty: boolean;
}

export interface Outcome {
  /** Answers while it lasted. */
  readonly seen: readonly Seen[];
  /** What was wrong with what the system said of itself, and with what became of the commands. */
  readonly faults: readonly string[];
}

let preparing: Promise<unknown> = Promise.resolve();

/** One system after another: each brings commands into states that end by themselves. */
function inTurn<T>(work: () => Promise<T>): Promise<T> {
  const result = preparing.then(work);
  preparing = result.catch(() => undefined);
  return result;
}

const forgives = async (system: System): Promise<boolean> =>
  (await metricOf(system.services["vm-ops"], "muster_vmops_amnesty_seconds")) > 0;

/** Takes something away for as long as ten minutes are, with commands in every state, and nobody's help afterwards. */
export async function outage(system: System, taken: Taken): Promise<Outcome> {
  const work = await inTurn(() => inEveryState(system));
  const faults: string[] = [];
  const until = performance.now() + outageMs;
  await taken.gone();
  work.release();
  const stopLooking = [
    keepLooking(() => look(system.gatewayUrl, system.apiKey, "accept", work.vmUuid)),
    keepLooking(() => look(system.gatewayUrl, system.apiKey, "list")),
    keepLooking(() => look(system.gatewayUrl, system.apiKey, "agents")),
  ];
  for (const [service, dependency] of Object.entries(taken.named) as [ServiceName, string][]) {
    await eventuallyHolds(async () => {
      const bad = await unready(system.services[service]);
      if (!(dependency in bad))
        throw new Error(`${service} does not name ${dependency}: ${Object.keys(bad).join()}`);
    }, 45_000).catch((error: unknown) => faults.push(String(error)));
  }
  await new Promise((resolve) => setTimeout(resolve, Math.max(0, until - performance.now())));
  await taken.back();
  const forgiven = taken.amnesty ? eventually(() => forgives(system), 60_000) : Promise.resolve(true);
  const amnesty = forgiven.catch((error: unknown) => faults.push(`no amnesty: ${String(error)}`));
  for (const service of Object.values(system.services)) {
    await service.ready(60_000).catch((error: unknown) => faults.push(`not ready again: ${String(error)}`));
  }
  await amnesty;
  const seen = (await Promise.all(stopLooking.map((stop) => stop()))).flat();
  faults.push(...(await work.faults()));
  return { seen, faults };
}
