import { readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import type { Client } from "@muster/client/client";
import { createClient } from "@muster/client/client";
import { uuidv7 } from "@muster/contracts/ids";
import type { BindingAppearance } from "@muster/contracts/secrets";
import { openPrivateServers } from "../broker-reality/private-servers.ts";
import { newPairingCode, pairByProgram } from "../agents/pairing.ts";
import { asAdmin } from "../model/facts.ts";
import { freePort } from "../processes.ts";
import {
  openSystem,
  type RunningAgent,
  type ServiceName,
  type System,
  type SystemOptions,
} from "../system.ts";
import type { Canary } from "./canary.ts";
import { openTap, type Tap } from "./tap.ts";

export interface Host {
  readonly vm: string;
  readonly agentId: string;
  readonly home: string;
  readonly agent: RunningAgent;
}

/** A system whose every connection to broker and database is listened to, with agents as operators install them. */
export interface World {
  readonly system: System;
  readonly client: Client;
  /** Of whoever may read material. */
  readonly reader: Client;
  /** What was heard on connections: a form of a canary, and where. */
  readonly heard: ReadonlySet<string>;
  /** Bytes that were listened to. */
  passed(): number;
  /** A VM with a paired agent of its own. */
  install(name: string, o?: { labels?: Record<string, string> }): Promise<Host>;
  keep(name: string, value: string): Promise<string>;
  bind(secretId: string, target: Target, as: BindingAppearance): Promise<string>;
  close(): Promise<void>;
}

type Target = { vm_uuid: string } | { labels: Record<string, string> } | { project_id: string };

export async function openWorld(
  o: { canary?: Canary; env?: Partial<Record<ServiceName, Record<string, string>>> } = {},
): Promise<World> {
  const gatewayPort = await freePort();
  const brokerKeysUrl = `http://127.0.0.1:${gatewayPort}/.well-known/broker-jwks.json`;
  const servers = await openPrivateServers({ brokerKeysUrl });
  const heard = new Set<string>();
  const taps: Tap[] = [];
  const tapped = async (where: string, url: string): Promise<string> => {
    const { canary } = o;
    if (canary === undefined) return url;
    const tap = await openTap(url, () => canary.watch((form) => heard.add(`${form} between ${where}`)));
    taps.push(tap);
    return tap.url;
  };
  const through: SystemOptions["through"] = (process, to, url) => tapped(`${process} and ${to}`, url);
  const opening = openSystem({
    servers,
    gatewayPort,
    through,
    ...(o.env === undefined ? {} : { env: o.env }),
  });
  // A broker and a database of ours outlive nobody.
  const system = await opening.catch(async (error: unknown) => {
    await servers.remove();
    throw error;
  });
  const { client } = system;
  return {
    system,
    client,
    reader: await readerOf(system),
    heard,
    passed: () => taps.reduce((sum, tap) => sum + tap.passed, 0),
    install: async (name, { labels = {} } = {}) => {
      const { data } = await client.registerVm({ body: { name, labels } });
      const vm = data.vm.vm_uuid;
      const [agentId, home] = [uuidv7(), join(system.folder, `${name}-home`)];
      const code = await newPairingCode(client, { agentId, vmUuids: [vm] });
      await pairByProgram({ gatewayUrl: system.gatewayUrl, code, home });
      const amqp = await tapped(`${name} and broker`, withoutUser(system.amqpUrl));
      const agent = await system.startPairedAgent({
        agentId,
        home,
        name,
        env: { MUSTER_AMQP_URL: amqp },
      });
      return { vm, agentId, home, agent };
    },
    keep: async (name, value) => {
      const { data } = await client.createSecret({ body: { name, material: { value } } });
      return data.secret.id;
    },
    bind: async (secret_id, target, as) => {
      const { data } = await client.createBinding({ body: { secret_id, target, as } });
      return data.binding.id;
    },
    close: async () => {
      await system.close();
      for (const tap of taps) await tap.close();
      await servers.remove();
    },
  };
}

async function readerOf(system: System): Promise<Client> {
  const { client } = system;
  const { data } = await client.createServiceAccount({
    body: { name: "reads secrets", permissions: ["secrets.read"] },
  });
  const key = await client.createApiKey({
    body: { name: "reads secrets", principal_id: data.service_account.id },
  });
  const token = key.data.secret;
  if (token === null) throw new Error("the key was not told");
  return createClient({ baseUrl: system.gatewayUrl, token });
}

function withoutUser(amqpUrl: string): string {
  const url = new URL(amqpUrl);
  url.username = "";
  url.password = "";
  return url.href;
}

/** Every row of every table that anybody of ours keeps, as text, by the table's name. */
export async function readTables(adminUrl: string): Promise<Map<string, string>> {
  return await asAdmin(adminUrl, async (admin) => {
    const tables = await admin.query<{ name: string }>(
      `SELECT format('%I.%I', n.nspname, c.relname) AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')`,
    );
    const dumped = new Map<string, string>();
    for (const { name } of tables) {
      const rows = await admin.query<{ line: string }>(`SELECT t::text AS line FROM ${name} t`);
      dumped.set(name, rows.map(({ line }) => line).join("\n"));
    }
    return dumped;
  });
}

/** Every file below a folder; those that go away meanwhile are left out. */
export async function readFiles(folder: string): Promise<Map<string, Buffer>> {
  const found = new Map<string, Buffer>();
  const names = await readdir(folder, { recursive: true });
  for (const name of names) {
    const path = join(folder, name);
    const about = await stat(path).catch(() => undefined);
    if (about?.isFile() !== true) continue;
    const bytes = await readFile(path).catch(() => undefined);
    if (bytes !== undefined) found.set(path, bytes);
  }
  return found;
}

/** What a process shows of itself to whoever may look: its arguments and its environment. */
export async function surroundingsOf(pid: number): Promise<Buffer> {
  const parts = await Promise.all(
    ["cmdline", "environ"].map((name) => readFile(`/proc/${pid}/${name}`).catch(() => Buffer.alloc(0))),
  );
  return Buffer.concat(parts);
}
