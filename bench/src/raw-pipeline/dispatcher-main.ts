import { openClock, pass } from "../harness/clock.ts";
import { serveParent } from "../harness/child.ts";
import { closedLoop, openLoop } from "../harness/load.ts";
import { Dispatcher } from "./dispatcher.ts";

interface Run {
  readonly vms: number;
  readonly payload: string;
  readonly inFlight?: number;
  readonly outstandingMax?: number;
  readonly rate?: number;
  readonly seconds: number;
}

const dispatcher = await Dispatcher.open({
  amqpUrl: process.env.MUSTER_BENCH_AMQP_URL ?? "",
  databaseUrl: process.env.MUSTER_BENCH_DATABASE_URL ?? "",
});
await dispatcher.answerRequests();

/** As many as it takes, with so many callers and no more outstanding commands than given. */
async function saturate(argument: unknown) {
  const { vms, payload, inFlight = 50, outstandingMax = 1_000, seconds } = argument as Run;
  let outstanding = 0;
  const before = dispatcher.counts;
  const startedMs = performance.now();
  const accepted = await closedLoop({ inFlight, seconds }, async (n) => {
    while (outstanding >= outstandingMax) await pass(1);
    outstanding += 1;
    await dispatcher.dispatch(n % vms, payload, () => (outstanding -= 1));
  });
  const elapsed = (performance.now() - startedMs) / 1_000;
  const completed = dispatcher.counts.completed - before.completed;
  while (outstanding > 0) await pass(5);
  return { accepted: accepted.done / elapsed, completed: completed / elapsed };
}

/** At a fixed rate: when each command was asked for, by its id. */
async function pace(argument: unknown) {
  const { vms, payload, rate = 100, seconds } = argument as Run;
  const clock = openClock();
  const asked: [id: string, askedMs: number][] = [];
  await openLoop({ rate, seconds }, async (n) => {
    const askedMs = clock();
    await new Promise<void>((resolve, reject) => {
      dispatcher
        .dispatch(n % vms, payload, resolve)
        .then((id) => asked.push([id, askedMs]))
        .catch(reject);
    });
  });
  return asked;
}

serveParent({ saturate, pace, counts: () => Promise.resolve(dispatcher.counts) });
