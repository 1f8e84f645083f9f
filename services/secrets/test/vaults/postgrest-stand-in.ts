import { readFile } from "node:fs/promises";
import { openAdmin } from "@muster/database/admin";
import type { Admin } from "@muster/database/admin";
import { setupDatabase } from "@muster/testing/database";
import { openFaultyHttp } from "./faulty-http.ts";
import type { Asked, Said } from "./faulty-http.ts";

const wrapper = new URL("../../../../../infra/supabase/muster_vault.sql", import.meta.url);

/** Roles, rights and functions as a Supabase project has them; what is kept is turned around where the extension encrypts. */
const project = `
  DO $$
  DECLARE wanted text;
  BEGIN
    FOREACH wanted IN ARRAY ARRAY['anon', 'authenticated', 'service_role'] LOOP
      BEGIN
        EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
      EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
      END;
    END LOOP;
  END $$;
  GRANT USAGE ON SCHEMA public TO anon, authenticated, service_role;
  ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT EXECUTE ON FUNCTIONS TO anon, authenticated, service_role;
  CREATE SCHEMA vault;
  CREATE TABLE vault.secrets (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text,
    description text NOT NULL DEFAULT '',
    secret text NOT NULL,
    key_id uuid,
    nonce bytea,
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP
  );
  CREATE UNIQUE INDEX secrets_name_idx ON vault.secrets USING btree (name) WHERE name IS NOT NULL;
  CREATE VIEW vault.decrypted_secrets AS
    SELECT id, name, description, secret, convert_from(decode(reverse(secret), 'hex'), 'UTF8') AS decrypted_secret,
           key_id, nonce, created_at, updated_at FROM vault.secrets;
  CREATE FUNCTION vault.create_secret(new_secret text, new_name text DEFAULT NULL, new_description text DEFAULT '',
                                      new_key_id uuid DEFAULT NULL)
  RETURNS uuid LANGUAGE sql SECURITY DEFINER SET search_path = '' AS $$
    INSERT INTO vault.secrets (secret, name, description)
    VALUES (pg_catalog.reverse(pg_catalog.encode(pg_catalog.convert_to(new_secret, 'UTF8'), 'hex')), new_name, new_description)
    RETURNING id
  $$;
  REVOKE ALL ON FUNCTION vault.create_secret(text, text, text, uuid) FROM PUBLIC;
`;

/** PostgREST's table from an SQLSTATE to a status; what is not in it is 400. */
const statuses: readonly (readonly [RegExp, number])[] = [
  [/^08/, 503],
  [/^(0L|0P|28)/, 403],
  [/^2350[35]$/, 409],
  [/^25006$/, 405],
  [/^53400$/, 500],
  [/^53/, 503],
  [/^(09|25|2D|38|39|3B|40|54|55|57|58|F0|HV|XX)/, 500],
  [/^42501$/, 403],
  [/^(42883|42P01)$/, 404],
];

const connectionsMax = 4;

/** A Supabase project as it is seen by HTTP: PostgREST's contract before the function, on a real PostgreSQL. */
export async function openPostgrest() {
  const database = await setupDatabase({ migrations: [] });
  const admin = await openAdmin(database.adminUrl);
  await admin.exclusively("muster.test.supabase", () => admin.run(project));
  const sql = await readFile(wrapper, "utf8");
  await admin.run(sql);
  const idle: Admin[] = await Promise.all(
    Array.from({ length: connectionsMax }, () => openAdmin(database.adminUrl)),
  );
  const all = [...idle];
  const waiting: ((one: Admin) => void)[] = [];
  const keys = { serviceRoleKey: "canary-service-role-key-77aa", anonKey: "an-anon-key" };

  async function connected<T>(work: (one: Admin) => Promise<T>): Promise<T> {
    const one = idle.pop() ?? (await new Promise<Admin>((resolve) => waiting.push(resolve)));
    try {
      return await work(one);
    } finally {
      const next = waiting.shift();
      if (next === undefined) idle.push(one);
      else next(one);
    }
  }

  function roleOf({ headers }: Asked): string | undefined {
    const key = headers["apikey"];
    if (headers.authorization !== `Bearer ${String(key)}`) return undefined;
    if (key === keys.serviceRoleKey) return "service_role";
    return key === keys.anonKey ? "anon" : undefined;
  }

  async function call(one: Admin, role: string, name: string, given: Record<string, unknown>): Promise<Said> {
    const names = Object.keys(given);
    const [known] = await one.query<{ args: string[] }>(
      "SELECT proargnames AS args FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proname = $1",
      [name],
    );
    if (known === undefined || names.some((each) => !known.args.includes(each))) return notInCache(name);
    await one.run(`BEGIN; SET LOCAL ROLE ${role}`);
    try {
      const args = names.map((each, i) => `"${each}" => $${i + 1}`).join(", ");
      const rows = await one.query(`SELECT * FROM public."${name}"(${args})`, Object.values(given));
      await one.run("COMMIT");
      return { status: 200, body: rows };
    } catch (error) {
      await one.run("ROLLBACK");
      const { code = "XX000", message = "" } = error as { code?: string; message?: string };
      const status = statuses.find(([shape]) => shape.test(code))?.[1] ?? 400;
      return { status, body: { code, message, details: null, hint: null } };
    }
  }

  async function answer(asked: Asked): Promise<Said> {
    if (asked.headers["apikey"] === undefined) {
      return { status: 401, body: { message: "No API key found in request" } };
    }
    const role = roleOf(asked);
    if (role === undefined) return { status: 401, body: { message: "Invalid API key" } };
    const [, name] = /^\/rest\/v1\/rpc\/([a-z0-9_]+)$/.exec(asked.path) ?? [];
    if (name === undefined) return notInCache(asked.path);
    if (asked.method !== "POST")
      return { status: 405, body: { code: "PGRST101", message: "Only GET and POST" } };
    return await connected((one) => call(one, role, name, asked.body as Record<string, unknown>));
  }

  const server = await openFaultyHttp(answer);
  return {
    ...server,
    ...keys,
    admin,
    wrapper: sql,
    async close() {
      await server.close();
      await Promise.all([admin, ...all].map((one) => one.close()));
      await database.destroy();
    },
  };
}

const notInCache = (name: string): Said => ({
  status: 404,
  body: {
    code: "PGRST202",
    message: `Could not find the function public.${name}`,
    details: null,
    hint: null,
  },
});
