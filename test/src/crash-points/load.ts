import { vmQueue } from "@muster/contracts/topology";
import type { Accepted, Model } from "../model/model.ts";
import type { System } from "../system.ts";

/** What commands can go through, once: a command that succeeds, a script that fails, a cancel, both timeouts. */
export async function oneOfEach(model: Model, vms: { served: string; lonely: string }): Promise<Accepted[]> {
  const { served, lonely } = vms;
  const first = await model.accept({ vmUuid: served, stdoutBytes: 100_000, stderrBytes: 100 });
  await model.repeat(first);
  const entries = await Promise.all([
    model.accept({ vmUuid: served, action: "script", exitCode: 3, stdoutBytes: 100 }),
    model.accept({ vmUuid: lonely, expiresInSeconds: 1 }),
    model.accept({ vmUuid: served, seconds: 20, timeoutSeconds: 1, stdoutBytes: 10 }),
    model.accept({ vmUuid: lonely }),
    model.accept({ vmUuid: served, seconds: 20 }),
  ]);
  const [, , , waiting, running] = entries;
  await Promise.all([model.cancel(waiting), model.started(running).then(() => model.cancel(running))]);
  return [first, ...entries];
}

const paceMs = 500;

export interface Load {
  /** Foreign messages that were put into VM queues. */
  readonly foreign: number;
  /** Stops; resolves when what is under way has been answered. */
  stop(): Promise<void>;
}

/** Keeps the system at work until it is stopped: one of each, again and again, and a foreign message now and then. */
export function keepAtWork(
  system: System,
  model: Model,
  vms: { served: string; lonely: string },
  onError: (error: unknown) => void,
): Load {
  let stopped = false;
  let foreign = 0;
  const repeat = async (work: (round: number) => Promise<unknown>): Promise<void> => {
    for (let round = 0; !stopped; round++) await work(round).catch(onError);
  };
  const running = Promise.all([
    repeat(async (round) => {
      if (round % 5 === 0) {
        await system.vhost.publish({ routingKey: vmQueue(system.tenantId, vms.served), payload: "not ours" });
        foreign += 1;
      }
      await oneOfEach(model, vms);
    }),
    // Steps of the plain way come often: a round of the other takes seconds.
    repeat(async () => {
      const waiting = await model.accept({ vmUuid: vms.lonely });
      await model.cancel(waiting);
      await model.accept({ vmUuid: vms.served, stdoutBytes: 10 });
      await new Promise((resolve) => setTimeout(resolve, paceMs));
    }),
  ]);
  return {
    get foreign() {
      return foreign;
    },
    async stop() {
      stopped = true;
      await running;
    },
  };
}

/**
 * An agent that is silent for so long that what waits for it is put back, then comes to until it has begun that, again and
 * again: whatever is put back too often is given up, which is not what is looked for here.
 */
export function keepDozing(
  agent: { signal(name: NodeJS.Signals): void },
  model: Model,
  vm: string,
  dozeMs: number,
): { stop(): Promise<void> } {
  let wake: (() => void) | undefined;
  let stopped = false;
  const run = async (): Promise<void> => {
    while (!stopped) {
      agent.signal("SIGSTOP");
      const waiting = await model.accept({ vmUuid: vm, stdoutBytes: 10 });
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, dozeMs);
        wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      agent.signal("SIGCONT");
      await model.started(waiting, 60_000);
    }
  };
  const running = run();
  return {
    async stop() {
      stopped = true;
      wake?.();
      agent.signal("SIGCONT");
      await running;
    },
  };
}
