import { material } from "@muster/contracts/secrets";
import type { Material } from "@muster/contracts/secrets";
import { once } from "@muster/service/closing";
import { z } from "zod";
import { parsed, unexpected } from "../http/answers.ts";
import { openHttpClient } from "../http/client.ts";
import { textOf } from "../material.ts";
import { VaultError } from "../vault.ts";
import type { Place, Vault } from "../vault.ts";

export interface SupabaseOptions {
  readonly url: string;
  readonly serviceRoleKey: string;
  readonly rpcName: string;
  readonly prefix: string;
  /** Certificates in PEM; by default Node's own. */
  readonly ca?: string | undefined;
}

/** What infra/supabase/muster_vault.sql returns: a row, or none for what is not there. */
const rows = z
  .array(
    z.object({ outcome: z.enum(["ready", "kept", "conflict", "destroyed"]), content: z.string().nullable() }),
  )
  .max(1);
type Row = z.output<typeof rows>[number];

/** Supabase Vault, through PostgREST and one function of ours: material goes by bind parameters, into no statement's text. */
export function openSupabaseVault(o: SupabaseOptions): Vault {
  const http = openHttpClient({ base: o.url, ca: o.ca, userAgent: "muster-secrets" });
  const headers = { apikey: o.serviceRoleKey, authorization: `Bearer ${o.serviceRoleKey}` };
  const path = `/rest/v1/rpc/${o.rpcName}`;
  const nameOf = ({ tenantId, secretId, version }: Place) => `${o.prefix}/${tenantId}/${secretId}/${version}`;

  async function call(
    operation: string,
    name: string,
    text: string | null,
    signal: AbortSignal,
  ): Promise<Row | undefined> {
    const body = { operation, name, material: text };
    const answer = await http.ask({ method: "POST", path, headers, body, signal });
    // PostgREST says it of the function alone: what is not there is 200 and no rows.
    const hint =
      answer.status === 404 ? `: apply infra/supabase/muster_vault.sql, or see SUPABASE_VAULT_RPC_NAME` : "";
    if (answer.status !== 200) throw unexpected(answer, hint);
    return parsed(answer, rows)[0];
  }

  return {
    kind: "supabase",
    async check(signal) {
      const row = await call("check", "", null, signal);
      if (row?.outcome !== "ready") throw notAsked();
    },
    async write(place, fields, signal) {
      const row = await call("write", nameOf(place), textOf(fields), signal);
      if (row?.outcome === "conflict") throw new VaultError("conflict", "other material is there");
      if (row?.outcome !== "kept") throw notAsked();
    },
    async read(place, signal) {
      const row = await call("read", nameOf(place), null, signal);
      if (row === undefined) throw new VaultError("missing", "it is not in the vault");
      if (row.outcome !== "kept" || row.content === null) throw notAsked();
      return materialOf(row.content);
    },
    async destroy(place, signal) {
      const row = await call("destroy", nameOf(place), null, signal);
      if (row !== undefined && row.outcome !== "destroyed") throw notAsked();
    },
    close: once(() => http.close()),
  };
}

const notAsked = () => new VaultError("garbled", "it answers 200 with what was not asked for");

const entries = z.array(z.tuple([z.string(), z.string()]));

function materialOf(text: string): Material {
  try {
    return material.parse(Object.fromEntries(entries.parse(JSON.parse(text))));
  } catch {
    // An error of either parser may quote what it read.
    throw new VaultError("garbled", "what is kept there is no material of ours");
  }
}
