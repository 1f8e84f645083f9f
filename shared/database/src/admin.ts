import pg from "pg";

/** One connection of an administrator, for what stands outside any service's schema. */
export interface Admin {
  run(text: string): Promise<void>;
  query<R>(text: string, values?: readonly unknown[]): Promise<R[]>;
  hasDatabase(name: string): Promise<boolean>;
  /** Runs the work while no one else on this database runs work of the same name. */
  exclusively<T>(name: string, work: () => Promise<T>): Promise<T>;
  close(): Promise<void>;
}

export async function openAdmin(url: string): Promise<Admin> {
  const client = new pg.Client({ connectionString: url, application_name: "muster admin", keepAlive: true });
  // A lost connection fails the next statement; it must not end the process.
  client.on("error", () => undefined);
  await client.connect();
  let closing: Promise<void> | undefined;

  async function query<R>(text: string, values: readonly unknown[] = []): Promise<R[]> {
    const result = await client.query<R & object>(text, [...values]);
    return result.rows;
  }
  return {
    query,
    async run(text) {
      await client.query(text);
    },
    hasDatabase: async (name) =>
      (await query("SELECT 1 FROM pg_database WHERE datname = $1", [name])).length > 0,
    async exclusively(name, work) {
      await query("SELECT pg_advisory_lock(hashtext($1))", [name]);
      try {
        return await work();
      } finally {
        await query("SELECT pg_advisory_unlock(hashtext($1))", [name]);
      }
    },
    close: () => (closing ??= client.end()),
  };
}
