import type { Client } from "@muster/client/client";
import { isTerminal, type CommandDetail, type CommandState } from "@muster/contracts/commands";
import { eventually, eventuallyHolds } from "@muster/testing/eventually";

type Action = "exec" | "script" | "file.put" | "file.get" | "probe" | "ping";

interface Asked {
  readonly vm_uuid: string;
  readonly action: Action;
  readonly params?: Record<string, unknown>;
  readonly timeout_seconds?: number;
  readonly expires_in_seconds?: number;
}

/** Asks for a command and gives its id. */
export async function ask(client: Client, body: Asked): Promise<string> {
  const { data } = await client.acceptCommand({ body });
  return data.command.id;
}

export const shell = (vmUuid: string, text: string, more: Partial<Asked> = {}): Asked => ({
  vm_uuid: vmUuid,
  action: "exec",
  params: { program: "sh", args: ["-c", text] },
  ...more,
});

export async function read(client: Client, id: string): Promise<CommandDetail> {
  return (await client.getCommand({ params: { id } })).data.command;
}

export async function inState(
  client: Client,
  id: string,
  state: CommandState,
  timeoutMs = 30_000,
): Promise<CommandDetail> {
  return await eventually(async () => {
    const command = await read(client, id);
    if (command.state === state) return command;
    throw new Error(`command is ${command.state} (${command.reason}), not ${state}`);
  }, timeoutMs);
}

export async function ended(client: Client, id: string, timeoutMs = 30_000): Promise<CommandDetail> {
  return await eventually(async () => {
    const command = await read(client, id);
    if (isTerminal(command.state)) return command;
    throw new Error(`command is ${command.state} (${command.reason})`);
  }, timeoutMs);
}

/** All output of an ended command by stream, as bytes; gaps are left out. */
export async function outputOf(client: Client, id: string): Promise<{ stdout: Buffer; stderr: Buffer }> {
  const parts: Record<"stdout" | "stderr", Buffer[]> = { stdout: [], stderr: [] };
  let cursor: string | undefined;
  await eventuallyHolds(async () => {
    const { data } = await client.readOutput({
      params: { id },
      query: cursor === undefined ? {} : { cursor },
    });
    for (const chunk of data.chunks) parts[chunk.stream].push(Buffer.from(chunk.data_base64, "base64"));
    cursor = data.cursor;
    if (!data.complete || data.chunks.length > 0) throw new Error("output is not complete");
  }, 30_000);
  return { stdout: Buffer.concat(parts.stdout), stderr: Buffer.concat(parts.stderr) };
}

export async function historyOf(client: Client, id: string): Promise<string[]> {
  const { data } = await client.listCommandEvents({ params: { id } });
  return data.events.map((event) => `${event.from ?? "-"}>${event.to}:${event.reason}`);
}
