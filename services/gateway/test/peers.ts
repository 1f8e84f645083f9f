import type { RequestContext } from "@muster/broker/broker";
import type { acceptedCommand, CommandDetail, CommandState, OutputPage } from "@muster/contracts/commands";
import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import { vmOpsRequests } from "@muster/contracts/vm-ops";
import type { z } from "zod";
import type { Bundle } from "./setup.ts";

/** One command that the scripted vm-ops has. */
export interface Live {
  readonly id: string;
  attempt: number;
  state: CommandState;
  stdout: Buffer;
  stderr: Buffer;
  complete: boolean;
}

const { acceptCommand, readOutput, getCommand } = vmOpsRequests;

const whole = {
  vm_uuid: "0190a8f0-0000-7000-8000-000000000001",
  action: "exec",
  environment: null,
  project_id: null,
  requested_by: "user:test",
  correlation_id: "c",
  timeout_seconds: 60,
  accepted_at: "2026-01-01T00:00:00.000Z",
  expires_at: "2026-01-01T01:00:00.000Z",
} as const;

function accepted(id: string): z.input<typeof acceptedCommand> {
  return { ...whole, id, state: "queued" };
}

function detailOf(live: Live): CommandDetail {
  return {
    ...whole,
    id: live.id,
    lane: "work",
    state: live.state,
    desired: "run",
    reason: live.state === "running" ? "claimed" : "completed",
    effect: "applied",
    attempt: live.attempt,
    requeues: 0,
    late: false,
    exit_code: live.state === "succeeded" ? 0 : null,
    dispatched_at: null,
    started_at: null,
    finished_at: null,
    agent_id: null,
    params: {},
    result: null,
    waiting_for: null,
  };
}

const pageBytes = 50;

function pageOf(live: Live, cursor: string | undefined): OutputPage {
  const [out = 0, err = 0] = (cursor ?? "0.0").split(".").map(Number);
  const at = { stdout: out, stderr: err };
  const chunks: OutputPage["chunks"] = [];
  for (const stream of ["stdout", "stderr"] as const) {
    const data = live[stream].subarray(at[stream], at[stream] + pageBytes);
    if (data.length > 0) chunks.push({ stream, offset: at[stream], data_base64: data.toString("base64") });
    at[stream] += data.length;
  }
  const read = at.stdout === live.stdout.length && at.stderr === live.stderr.length;
  const { state, attempt } = live;
  return {
    state,
    attempt,
    chunks,
    cursor: `${at.stdout}.${at.stderr}`,
    complete: live.complete && read,
    totals: null,
  };
}

/** A vm-ops that has the commands it was given, and remembers keys and who asked. */
export async function serveVmOps(s: Bundle, commands: Map<string, Live>) {
  const byKey = new Map<string, string>();
  const contexts: RequestContext[] = [];
  const found = (id: string): Live => {
    const live = commands.get(id);
    if (live === undefined) throw new MusterError("COMMAND_NOT_FOUND");
    return live;
  };
  const consumer = await s.peers.vmOps.serve(
    "vm-ops",
    { acceptCommand, readOutput, getCommand },
    {
      acceptCommand: (items) =>
        Promise.resolve(
          items.map(({ payload, context }) => {
            contexts.push(context);
            if (payload.command.environment === "full") {
              return new MusterError("BACKPRESSURE", undefined, { retryAfterMs: 7_000 });
            }
            const key = payload.idempotency_key;
            const before = key === undefined ? undefined : byKey.get(key);
            const id = before ?? uuidv7();
            if (key !== undefined) byKey.set(key, id);
            return { command: accepted(id), replayed: before !== undefined };
          }),
        ),
      readOutput: async (payload, context) => {
        contexts.push(context);
        return pageOf(found(payload.command_id), payload.cursor);
      },
      getCommand: async (payload) => detailOf(found(payload.command_id)),
    },
  );
  return { contexts, consumer };
}
