import type { Client } from "@muster/client/client";
import type { Supervised } from "./supervised.ts";

const refreshMs = 2_000;
const callTimeoutMs = 1_500;

/** A line that stays at the bottom of a terminal while others pass above it. */
export interface Screen {
  say(line: string): void;
  status(line: string): void;
  end(): void;
}

export function openScreen(output: NodeJS.WriteStream): Screen {
  const live = output.isTTY;
  let shown = "";
  // A reader that went away (`| head`) ends what is shown, not the system.
  output.on("error", () => undefined);
  const clear = (): void => {
    if (live && shown !== "") output.write("\r\u001b[2K");
  };
  return {
    say: (line) => {
      clear();
      output.write(`${line}\n`);
      if (live && shown !== "") output.write(shown);
    },
    status: (line) => {
      if (!live) return;
      clear();
      shown = line.slice(0, Math.max(20, (output.columns || 80) - 1));
      output.write(shown);
    },
    end: () => {
      clear();
      shown = "";
    },
  };
}

function countBy(values: readonly string[]): string {
  const counts = new Map<string, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts].map(([value, count]) => `${value} ${count}`).join(", ") || "none";
}

/** One line: services up, agents online, the last commands by state. */
export async function statusLine(processes: readonly Supervised[], client: Client): Promise<string> {
  const services = processes.filter(({ name }) => name !== "agent");
  const ready = (await Promise.all(services.map((one) => one.isReady()))).filter(Boolean).length;
  const options = { timeoutMs: callTimeoutMs, signal: AbortSignal.timeout(callTimeoutMs) };
  const [agents, commands] = await Promise.all([
    client.listAgents({ query: { limit: 200 }, ...options }),
    client.listCommands({ query: { limit: 200 }, ...options }),
  ]);
  const presence = countBy(agents.data.agents.map(({ state }) => state));
  const states = countBy(commands.data.commands.map(({ state }) => state));
  return `services ${ready}/${services.length} · agents: ${presence} · commands: ${states} · Ctrl-C stops`;
}

/** Keeps the line current until the signal; a system that does not answer is a status, too. */
export async function showStatus(
  screen: Screen,
  processes: () => readonly Supervised[],
  client: Client,
  signal: AbortSignal,
): Promise<void> {
  while (!signal.aborted) {
    const line = await statusLine(processes(), client).catch(
      () => "the gateway does not answer · Ctrl-C stops",
    );
    if (signal.aborted) return;
    screen.status(line);
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, refreshMs);
      signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
    });
  }
}
