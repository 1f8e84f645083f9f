import { hostname, platform, arch } from "node:os";
import { setTimeout as delay } from "node:timers/promises";
import type { Client } from "@muster/client/client";
import { MusterError } from "@muster/contracts/errors";
import type { Machine } from "./preparation.ts";

const text = `uname -a
echo "working in $(pwd) as $(id -un)"
for part in 1 2 3; do sleep 0.4; echo "$(date +%H:%M:%S) part $part of 3"; done
`;
const followTimeoutMs = 90_000;
const behindCheckMs = 3_000;

function labelValue(text: string): string {
  return text.replace(/[^A-Za-z0-9_.-]/g, "-").slice(0, 63);
}

/** Registers this machine; an earlier registration is fine. */
export async function ensureRegistered(client: Client, machine: Machine): Promise<void> {
  const labels = { host: labelValue(hostname()), os: platform(), arch: arch() };
  try {
    await client.registerVm({ body: { vm_uuid: machine.vm_uuid, name: machine.name, labels } });
  } catch (error) {
    if (!(error instanceof MusterError) || error.code !== "VM_ALREADY_REGISTERED") throw error;
  }
}

/** Whole lines as they come; the rest at the end. */
function linePrinter(say: (line: string) => void): { push(piece: string): void; end(): void } {
  let rest = "";
  return {
    push: (piece) => {
      const lines = (rest + piece).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) say(`  │ ${line}`);
    },
    end: () => {
      if (rest !== "") say(`  │ ${rest}`);
      rest = "";
    },
  };
}

/** An earlier command still runs on this machine: ours would wait behind it, perhaps for an hour. */
async function isBehindAnother(client: Client, id: string, signal: AbortSignal): Promise<boolean> {
  const { data } = await client.getCommand({ params: { id }, signal });
  return data.command.waiting_for?.code === "earlier_command";
}

function outputText(data: { text?: string | undefined; data_base64: string }): string {
  return data.text ?? Buffer.from(data.data_base64, "base64").toString("utf8");
}

async function followToEnd(
  client: Client,
  id: string,
  say: (line: string) => void,
  signal: AbortSignal,
): Promise<void> {
  const printer = linePrinter(say);
  for await (const event of client.follow(id, { signal })) {
    if (event.event === "output") printer.push(outputText(event.data));
    if (event.event !== "end") continue;
    printer.end();
    const { state, exit_code: exitCode, run_ms: runMs, error } = event.data;
    const why = error === null ? "" : ` (${error})`;
    say(`command ${state}: exit ${exitCode ?? "none"} after ${runMs ?? 0} ms${why}`);
    if (state !== "succeeded")
      throw new Error(`the first command ${state}; see GET /api/v1/vm-ops/commands/${id}`);
  }
}

/**
 * Dispatches a real command to this machine and shows its output while it runs, then how it ended. Where an earlier
 * command has the machine, that is said instead: it is work that somebody wanted.
 */
export async function demonstrate(
  client: Client,
  machine: Machine,
  say: (line: string) => void,
  signal: AbortSignal,
): Promise<void> {
  const { data } = await client.acceptCommand({
    body: { vm_uuid: machine.vm_uuid, action: "script", params: { text }, timeout_seconds: 60 },
    signal,
  });
  const { id } = data.command;
  say(`command ${id} on this machine, live:`);
  const stop = new AbortController();
  const overdue = AbortSignal.timeout(followTimeoutMs);
  // Node 20 collects a timeout that only AbortSignal.any() knows, and then it never fires; a listener keeps it.
  overdue.addEventListener("abort", () => undefined, { once: true });
  const following = followToEnd(client, id, say, AbortSignal.any([signal, stop.signal, overdue]));
  const ended = following.then(
    () => true as const,
    (error: unknown) => {
      const seconds = followTimeoutMs / 1_000;
      if (overdue.aborted)
        throw new Error(`the first command did not end within ${seconds} s`, { cause: error });
      throw error;
    },
  );
  for (;;) {
    const pause = delay(behindCheckMs, false as const, { signal });
    if (await Promise.race([ended, pause])) return;
    if (await isBehindAnother(client, id, signal)) break;
  }
  stop.abort();
  await following.catch(() => undefined);
  await client.cancelCommand({ params: { id }, body: {}, signal });
  say("this machine still runs an earlier command; ours was cancelled, the earlier one goes on");
}
