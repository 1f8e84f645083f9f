import { z } from "zod";
import { readJson, writeJson } from "../system/files.ts";

const pid = z.number().int().positive();

/** `.muster/run.json`: how to reach a system that is ready. Holds credentials; mode 0600. */
export const runFileSchema = z.object({
  gateway_url: z.string(),
  owner: z.object({ email: z.string(), api_key: z.string() }),
  tenant_id: z.string(),
  amqp_url: z.string(),
  database_url: z.string(),
  management_url: z.string(),
  services: z.record(
    z.string(),
    z.object({ pid: pid.nullable(), health_url: z.string(), metrics_url: z.string() }),
  ),
  agents: z.array(z.object({ pid: pid.nullable(), vm_uuid: z.string() })),
  supervisor: z.object({ pid }),
});
export type RunFile = z.output<typeof runFileSchema>;

export function readRunFile(path: string): RunFile | undefined {
  return readJson(path, runFileSchema);
}

export function writeRunFile(path: string, value: RunFile): void {
  writeJson(path, value);
}

/** What a person needs to go on. */
export function describeRun(run: RunFile): string[] {
  return [
    `gateway      ${run.gateway_url}  (reference: ${run.gateway_url}/docs)`,
    `tenant       ${run.tenant_id}`,
    `owner        ${run.owner.email}`,
    `API key      ${run.owner.api_key}`,
    `RabbitMQ     ${run.management_url}`,
    `PostgreSQL   ${run.database_url}`,
  ];
}
