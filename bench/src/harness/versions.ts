import type { Vhost } from "@muster/testing/vhost";
import type { Pool } from "pg";
import { z } from "zod";

const overview = z.object({ rabbitmq_version: z.string() });
const shown = z.array(z.object({ server_version: z.string() }));

export async function serverVersions(database: Pool, vhost: Vhost): Promise<Record<string, string>> {
  const { rows } = await database.query("SHOW server_version");
  return {
    RabbitMQ: overview.parse(await vhost.call("GET", "/overview")).rabbitmq_version,
    PostgreSQL: shown.parse(rows)[0]?.server_version.split(" ")[0] ?? "unknown",
  };
}
