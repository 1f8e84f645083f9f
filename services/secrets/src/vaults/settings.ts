import { vaultKinds } from "@muster/contracts/secrets";
import { choice, duration, integer, masked, setting, text } from "@muster/service/settings";
import type { SettingFault, Values } from "@muster/service/settings";
import { z } from "zod";

const loopback = /^(localhost|127\.[0-9.]+|\[::1\])$/;

/** What we send there opens everything: by TLS alone, but on this machine. */
function isVaultAddress(value: string): boolean {
  if (!URL.canParse(value)) return false;
  const url = new URL(value);
  if (url.username !== "" || url.password !== "") return false;
  if (url.search !== "" || url.hash !== "") return false;
  return url.protocol === "https:" || (url.protocol === "http:" && loopback.test(url.hostname));
}

const address = (help: string) =>
  setting({
    schema: z
      .string()
      .max(2_048)
      .refine(
        isVaultAddress,
        "must be an https:// address without user and query; http:// on this machine alone",
      )
      .optional(),
    help,
  });

const pathShape =
  /^[A-Za-z0-9_-]([A-Za-z0-9_.-]*[A-Za-z0-9_-])?(\/[A-Za-z0-9_-]([A-Za-z0-9_.-]*[A-Za-z0-9_-])?)*$/;
const path = z
  .string()
  .max(128)
  .regex(pathShape, "must be names of A-Z, a-z, 0-9, _, . and - with / between, no . at an end");

/** Goes into a header as it is. */
const credential = (help: string) =>
  setting({
    schema: z
      .string()
      .max(8_192)
      .regex(/^[\x21-\x7e]+$/, "must be printable ASCII without blanks")
      .optional(),
    help,
    secret: true,
  });

const file = (help: string) => setting({ schema: z.string().min(1).max(1_024).optional(), help });
const name = (help: string) => setting({ schema: z.string().min(1).max(256).optional(), help });

export const vaultSettings = {
  SECRETS_VAULT: choice(vaultKinds, {
    help: "Where material is kept: in a PostgreSQL schema of its own, in Vault or OpenBao, or in Supabase Vault",
    default: "sealed",
  }),
  SECRETS_VAULT_MODE: choice(["shadow", "enforced"], {
    help: "shadow starts without a vault and refuses what needs one; enforced does not start",
    default: "enforced",
  }),
  SUPABASE_URL: address("The project whose Vault keeps material, for SECRETS_VAULT=supabase"),
  SUPABASE_SERVICE_ROLE_KEY: credential("Its service-role or secret key"),
  SUPABASE_VAULT_RPC_NAME: setting({
    schema: z.string().regex(/^[a-z_][a-z0-9_]{0,62}$/, "must be the name of a function, of a-z, 0-9 and _"),
    help: "The function that infra/supabase/muster_vault.sql makes there",
    default: "muster_vault",
  }),
  MUSTER_SECRETS_VAULT_ADDR: address(
    "Vault or OpenBao, for SECRETS_VAULT=hashicorp, like https://vault.example.org:8200",
  ),
  MUSTER_SECRETS_VAULT_NAMESPACE: setting({
    schema: path.optional(),
    help: "Its namespace, where it has any",
  }),
  MUSTER_SECRETS_VAULT_MOUNT: setting({
    schema: path,
    help: "Where its KV version 2 is mounted",
    default: "secret",
  }),
  MUSTER_SECRETS_VAULT_PREFIX: setting({
    schema: path,
    help: "What paths in an outside vault begin with; one for each installation that uses it",
    default: "muster",
  }),
  MUSTER_SECRETS_VAULT_AUTH: choice(["token", "approle", "kubernetes"], {
    help: "How to log in at Vault or OpenBao",
    default: "token",
  }),
  MUSTER_SECRETS_VAULT_AUTH_MOUNT: setting({
    schema: path.optional(),
    help: "Where that way is mounted, if not by its own name",
  }),
  MUSTER_SECRETS_VAULT_TOKEN: credential("For token: the token; it is renewed as long as it may be"),
  MUSTER_SECRETS_VAULT_TOKEN_FILE: file("For token: a file with it, read again when it is refused"),
  MUSTER_SECRETS_VAULT_ROLE_ID: name("For approle: the role's id"),
  MUSTER_SECRETS_VAULT_SECRET_ID: credential("For approle: the secret id"),
  MUSTER_SECRETS_VAULT_SECRET_ID_FILE: file("For approle: a file with the secret id, read at each login"),
  MUSTER_SECRETS_VAULT_K8S_ROLE: name("For kubernetes: the role"),
  MUSTER_SECRETS_VAULT_K8S_JWT_FILE: text({
    help: "For kubernetes: the service account's token, read at each login",
    default: "/var/run/secrets/kubernetes.io/serviceaccount/token",
  }),
  MUSTER_SECRETS_VAULT_CA_FILE: file(
    "Certificates (PEM) that an outside vault is believed by; by default Node's own",
  ),
  MUSTER_SECRETS_VAULT_TIMEOUT_MS: duration({
    help: "How long one call of the vault may take, with its wait for a place among the others",
    min: 50,
    max: 30_000,
    default: 2_000,
  }),
  MUSTER_SECRETS_VAULT_START_TIMEOUT_MS: duration({
    help: "How long a start in enforced mode waits for the vault",
    min: 100,
    max: 600_000,
    default: 30_000,
  }),
  MUSTER_SECRETS_VAULT_CONCURRENCY_MAX: integer({
    help: "Calls of the vault at once; four times as many wait, more are refused",
    min: 1,
    max: 1_000,
    default: 32,
  }),
  MUSTER_SECRETS_VAULT_BREAKER_FAILURES_PERCENT: integer({
    help: "When more of the calls than this fail, the vault is left alone for a while",
    unit: "%",
    min: 1,
    max: 99,
    default: 50,
  }),
  MUSTER_SECRETS_VAULT_BREAKER_CALLS_MIN: integer({
    help: "Of how many calls at least that is judged",
    min: 1,
    max: 10_000,
    default: 5,
  }),
  MUSTER_SECRETS_VAULT_BREAKER_WINDOW_MS: duration({
    help: "Of how long back",
    min: 100,
    max: 600_000,
    default: 10_000,
  }),
  MUSTER_SECRETS_VAULT_BREAKER_PROBE_MS: duration({
    help: "How long it is left alone before one call tries it",
    min: 10,
    max: 600_000,
    default: 5_000,
  }),
};

export type VaultConfig = Values<typeof vaultSettings>;
type Name = keyof VaultConfig;

/** For each vault, which of several it takes exactly one of. */
function neededOf(config: VaultConfig): readonly (readonly Name[])[] {
  if (config.SECRETS_VAULT === "sealed") return [];
  if (config.SECRETS_VAULT === "supabase") return [["SUPABASE_URL"], ["SUPABASE_SERVICE_ROLE_KEY"]];
  const login: Record<VaultConfig["MUSTER_SECRETS_VAULT_AUTH"], readonly (readonly Name[])[]> = {
    token: [["MUSTER_SECRETS_VAULT_TOKEN", "MUSTER_SECRETS_VAULT_TOKEN_FILE"]],
    approle: [
      ["MUSTER_SECRETS_VAULT_ROLE_ID"],
      ["MUSTER_SECRETS_VAULT_SECRET_ID", "MUSTER_SECRETS_VAULT_SECRET_ID_FILE"],
    ],
    kubernetes: [["MUSTER_SECRETS_VAULT_K8S_ROLE"]],
  };
  return [["MUSTER_SECRETS_VAULT_ADDR"], ...login[config.MUSTER_SECRETS_VAULT_AUTH]];
}

/** Names that one way to log in has and the others do not. */
const logins: Readonly<Record<string, readonly Name[]>> = {
  token: ["MUSTER_SECRETS_VAULT_TOKEN", "MUSTER_SECRETS_VAULT_TOKEN_FILE"],
  approle: [
    "MUSTER_SECRETS_VAULT_ROLE_ID",
    "MUSTER_SECRETS_VAULT_SECRET_ID",
    "MUSTER_SECRETS_VAULT_SECRET_ID_FILE",
  ],
  kubernetes: ["MUSTER_SECRETS_VAULT_K8S_ROLE"],
};

/** Every setting of the chosen vault that is missing, or contradicts another. */
export function vaultFaults(config: VaultConfig): SettingFault[] {
  const faults: SettingFault[] = [];
  const vault = config.SECRETS_VAULT;
  const shown = (of: Name): string => {
    const value = String(config[of]);
    return vaultSettings[of].secret ? masked(value) : value;
  };
  const chosen = vault === "hashicorp" ? `${vault} and ${config.MUSTER_SECRETS_VAULT_AUTH}` : vault;
  for (const names of neededOf(config)) {
    const [first] = names;
    const given = names.filter((one) => config[one] !== undefined);
    const either = names.join(" or ");
    if (given.length === 0 && first !== undefined) {
      faults.push({ name: first, rule: `must be set for ${chosen}: ${either}`, value: undefined });
    }
    for (const extra of given.slice(1)) {
      faults.push({ name: extra, rule: `must not be set beside ${given[0] ?? ""}`, value: shown(extra) });
    }
  }
  if (vault !== "hashicorp" && config.MUSTER_SECRETS_VAULT_ADDR !== undefined) {
    const rule = `must not be set with SECRETS_VAULT=${vault}, which is another vault`;
    faults.push({ name: "MUSTER_SECRETS_VAULT_ADDR", rule, value: shown("MUSTER_SECRETS_VAULT_ADDR") });
  }
  if (vault === "hashicorp") {
    for (const [auth, names] of Object.entries(logins)) {
      if (auth === config.MUSTER_SECRETS_VAULT_AUTH) continue;
      for (const one of names.filter((other) => config[other] !== undefined)) {
        const rule = `must not be set with MUSTER_SECRETS_VAULT_AUTH=${config.MUSTER_SECRETS_VAULT_AUTH}`;
        faults.push({ name: one, rule, value: shown(one) });
      }
    }
  }
  return faults;
}
