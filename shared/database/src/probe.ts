import pg from "pg";

/** Logs in once and leaves; answers the server's version. Rejects with what the server or the network said. */
export async function probeDatabase(url: string, timeoutMs: number): Promise<string> {
  const client = new pg.Client({
    connectionString: url,
    connectionTimeoutMillis: timeoutMs,
    query_timeout: timeoutMs,
    application_name: "muster-probe",
  });
  // A connection cut after the answer must not end the process.
  client.on("error", () => undefined);
  try {
    await client.connect();
    const { rows } = await client.query<{ server_version: string }>("SHOW server_version");
    return rows[0]?.server_version ?? "unknown";
  } finally {
    await client.end().catch(() => undefined);
  }
}
