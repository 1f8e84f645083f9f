import { hostname, platform, arch } from "node:os";
import type { Client } from "@muster/client/client";
import { MusterError } from "@muster/contracts/errors";
import type { Machine } from "./preparation.ts";

const text = `uname -a
echo "working in $(pwd) as $(id -un)"
for part in 1 2 3; do sleep 0.4; echo "$(date +%H:%M:%S) part $part of 3"; done
`;
const followTimeoutMs = 90_000;

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

/** Dispatches a real command to this machine and shows its output while it runs, then how it ended. */
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
  const printer = linePrinter(say);
  const stop = AbortSignal.any([signal, AbortSignal.timeout(followTimeoutMs)]);
  for await (const event of client.follow(id, { signal: stop })) {
    if (event.event === "output") {
      printer.push(event.data.text ?? Buffer.from(event.data.data_base64, "base64").toString("utf8"));
    }
    if (event.event !== "end") continue;
    printer.end();
    const { state, exit_code: exitCode, run_ms: runMs, error } = event.data;
    say(
      `command ${state}: exit ${exitCode ?? "none"} after ${runMs ?? 0} ms${error === null ? "" : ` (${error})`}`,
    );
    if (state !== "succeeded")
      throw new Error(`the first command ${state}; see ${id} in GET /api/v1/vm-ops/commands`);
  }
}
