import { z } from "zod";
import { eventuallyHolds } from "@muster/testing/eventually";
import { inState } from "../following.ts";
import { asAdmin } from "../model/facts.ts";
import { openModel, type Accepted, type Model } from "../model/model.ts";
import type { RunningAgent, System } from "../system.ts";
import { outageMs } from "./scale.ts";

/** Commands in every state at the moment at which something is taken away. */
export interface EveryState {
  readonly model: Model;
  readonly vmUuid: string;
  /** What the outage must not change, and what it may: id of each by what it was doing. */
  readonly of: Readonly<Record<string, Accepted>>;
  /** The outage has begun: lets the agent go on that was held back. */
  release(): void;
  /** Everything that is wrong once it is over; nothing when all went on by itself. */
  faults(): Promise<string[]>;
}

/** How each must have ended. */
const ends: Readonly<Record<string, string>> = {
  long: "succeeded:completed",
  // It would have expired without the outage too: what runs before it takes longer than it may wait.
  behindTooLong: "expired:delivery_timeout",
  behind: "succeeded:completed",
  endsMeanwhile: "failed:exit_nonzero",
  afterThat: "succeeded:completed",
  overdue: "expired:execution_timeout",
  cancelAsked: "cancelled:cancelled_while_running",
  dispatched: "succeeded:completed",
};

const seconds = outageMs / 1_000;

export async function inEveryState(system: System): Promise<EveryState> {
  const model = openModel(system, { acceptMs: outageMs + 90_000 });
  const vms: Record<string, string> = {};
  for (const name of ["long", "ends", "overdue", "many", "cancels", "dispatched"]) {
    vms[name] = await system.registerVm(name, name === "many" ? 8 : 1);
  }
  const vm = (name: string): string => vms[name] ?? "";
  const names = ["long", "ends", "overdue", "many"];
  await system.startAgent({ vmUuids: names.map(vm), name: "agent" });
  const held = await system.startAgent({ vmUuids: [vm("cancels"), vm("dispatched")], name: "held" });

  const accept = (name: string, more: object) => model.accept({ vmUuid: vm(name), ...more });
  const of: Record<string, Accepted> = {};
  of.long = await accept("long", { seconds: seconds + 8, stdoutBytes: 300_000 });
  of.behindTooLong = await accept("long", { expiresInSeconds: seconds - 30 });
  of.behind = await accept("long", { stdoutBytes: 10_000 });
  of.endsMeanwhile = await accept("ends", {
    seconds: 20,
    exitCode: 7,
    stdoutBytes: 200_000,
    stderrBytes: 99,
  });
  of.afterThat = await accept("ends", { stdoutBytes: 5_000 });
  of.overdue = await accept("overdue", { seconds: 600, timeoutSeconds: 20 });
  of.cancelAsked = await accept("cancels", { seconds: 600, stdoutBytes: 1_000 });
  for (const name of ["long", "endsMeanwhile", "overdue", "cancelAsked"]) await model.started(of[name]!);

  // The agent is held: its cancel is under way and its command is rung for, and neither was heard.
  held.process.signal("SIGSTOP");
  await model.cancel(of.cancelAsked);
  of.dispatched = await accept("dispatched", { stdoutBytes: 2_000 });
  await inState(system.client, of.dispatched.id ?? "", "dispatched");
  // Still on their way when it begins: some answered, some not, some queued and not yet confirmed.
  const underWay = Array.from({ length: 6 }, () => accept("many", { stdoutBytes: 3_000 }));
  return {
    ...{ model, vmUuid: vm("many"), of },
    release: () => held.process.signal("SIGCONT"),
    faults: async () => {
      await Promise.all(underWay);
      const found = await model.check({ withinMs: 90_000 });
      return [...found, ...(await faultsOfEnds(system, of)), ...(await faultsOfSession(system, held))];
    },
  };
}

const row = z.object({ id: z.string(), state: z.string(), reason: z.string(), attempt: z.number() });

const givenBack = (rules: readonly string[]): number =>
  rules.filter((rule) => rule === "result_abandoned").length;

/** The outage cost no attempt and changed no end, not even one that a late result set right. */
async function faultsOfEnds(system: System, of: Readonly<Record<string, Accepted>>): Promise<string[]> {
  return await asAdmin(system.adminDatabaseUrl, async (admin) => {
    const rows = z
      .array(row)
      .parse(await admin.query("SELECT id, state, reason, attempt FROM vm_ops.commands", []));
    const judged = await admin.query<{ command_id: string; rule: string }>(
      "SELECT command_id, rule FROM vm_ops.command_events WHERE actor = 'sweep' AND rule <> 'delivery_timeout'",
      [],
    );
    const events = await admin.query<{ command_id: string; rule: string }>(
      "SELECT command_id, rule FROM vm_ops.command_events ORDER BY id",
      [],
    );
    const lives = new Map<string, string[]>();
    for (const { command_id, rule } of events)
      lives.set(command_id, [...(lives.get(command_id) ?? []), rule]);
    const byId = new Map(rows.map((one) => [one.id, one]));
    return [
      ...Object.entries(of).flatMap(([name, { id = "" }]) => {
        const { state, reason } = byId.get(id) ?? { state: "?", reason: "?" };
        return `${state}:${reason}` === ends[name] ? [] : [`${name} ended as ${state}:${reason}`];
      }),
      ...rows
        // An agent may give back what it could not start in time: nothing began, nobody judged it.
        .filter(({ id, attempt }) => attempt - 1 > givenBack(lives.get(id) ?? []))
        .map(({ id, attempt }) => `${id} is at attempt ${attempt}: ${(lives.get(id) ?? []).join(", ")}`),
      ...judged
        // Its agent stopped it in time and could not say so.
        .filter(({ command_id }) => command_id !== of.overdue?.id)
        .map(({ command_id, rule }) => `${command_id} was judged: ${rule}`),
    ];
  });
}

async function faultsOfSession(system: System, agent: RunningAgent): Promise<string[]> {
  return await eventuallyHolds(async () => {
    const { data } = await system.client.listAgents();
    const away = data.agents.filter((known) => known.state !== "online").map((known) => known.agent_id);
    if (away.length > 0) throw new Error(`not online: ${away.join()}, ${agent.agentId} was held back`);
  }, 30_000).then(
    () => [],
    (error: unknown) => [String(error)],
  );
}
