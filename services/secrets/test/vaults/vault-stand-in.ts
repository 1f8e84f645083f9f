import { randomBytes } from "node:crypto";
import { openFaultyHttp } from "./faulty-http.ts";
import type { Asked, Said } from "./faulty-http.ts";
import { KeyValueEngine, refusal, wrapped } from "./key-value.ts";

export interface Token {
  readonly secret: string;
  readonly namespace: string;
  ttlSeconds: number;
  untilMs: number;
  readonly diesMs: number;
  readonly renewable: boolean;
  /** What it may, by the first words of the paths; `default` is Vault's policy of that name. */
  readonly may: readonly string[];
}

export interface Leases {
  ttlSeconds: number;
  maxSeconds: number;
  renewable: boolean;
}

const own = ["auth/token/", "sys/internal/ui/mounts/"];
export const approle = { roleId: "4f1d-role", secretId: "canary-secret-id-5b1f" };
export const serviceAccount = { role: "muster", jwt: "eyJhbGciOiJub25lIn0.canary-jwt.x" };

/**
 * Vault's HTTP contract as far as Muster asks it, and what of it goes wrong: tokens with leases and a greatest age, namespaces, KV
 * version 2 with 404s that have metadata, seals and standbys. It is to answer as Vault does, for the same suite runs against Vault.
 */
export async function openVaultStandIn(
  o: { tls?: { key: string; certificate: string }; namespace?: string } = {},
) {
  const engine = new KeyValueEngine();
  const tokens = new Map<string, Token>();
  const namespace = o.namespace ?? "";
  const state = {
    sealed: false,
    initialized: true,
    /** Without an active node that it could pass requests on to. */
    standby: false,
    kvVersion: "2",
    requireRequestHeader: true,
    leases: { ttlSeconds: 3_600, maxSeconds: 36_000, renewable: true } as Leases,
    /** What tokens that a login gives may. */
    may: [...own, "secret/"],
    logins: 0,
    renewals: 0,
    lookups: 0,
    revoked: 0,
  };

  function makeToken(leases: Leases = state.leases, may: readonly string[] = state.may): Token {
    const secret = `hvs.canary-token-${randomBytes(12).toString("hex")}`;
    const nowMs = Date.now();
    const token: Token = {
      secret,
      namespace,
      ttlSeconds: leases.ttlSeconds,
      untilMs: leases.ttlSeconds === 0 ? Infinity : nowMs + leases.ttlSeconds * 1_000,
      diesMs: nowMs + leases.maxSeconds * 1_000,
      renewable: leases.renewable,
      may,
    };
    tokens.set(secret, token);
    return token;
  }

  function health(query: URLSearchParams): Said {
    const body = {
      initialized: state.initialized,
      sealed: state.sealed,
      standby: state.standby,
      version: "1.20.0",
    };
    if (!state.initialized) return { status: 501, body };
    if (state.sealed) return { status: 503, body };
    return { status: state.standby && query.get("standbyok") !== "true" ? 429 : 200, body };
  }

  function login(token: Token): Said {
    state.logins += 1;
    return { status: 200, body: { ...wrapped(null), auth: authOf(token) } };
  }

  function logIn(path: string, asked: Asked): Said | undefined {
    const { role_id, secret_id, role, jwt } = (asked.body ?? {}) as Record<string, unknown>;
    if (path === "auth/approle/login") {
      const known = role_id === approle.roleId && secret_id === approle.secretId;
      return known ? login(makeToken()) : refusal(400, "invalid role or secret ID");
    }
    if (path === "auth/kubernetes/login") {
      const known = role === serviceAccount.role && jwt === serviceAccount.jwt;
      return known ? login(makeToken()) : refusal(403, "permission denied");
    }
    return undefined;
  }

  function ownToken(path: string, token: Token): Said {
    if (path === "auth/token/renew-self") {
      if (!token.renewable) return refusal(400, "lease is not renewable");
      state.renewals += 1;
      token.untilMs = Math.min(Date.now() + token.ttlSeconds * 1_000, token.diesMs);
      return { status: 200, body: { ...wrapped(null), auth: authOf(token) } };
    }
    if (path === "auth/token/lookup-self") {
      state.lookups += 1;
      const ttl = token.untilMs === Infinity ? 0 : leftOf(token);
      return { status: 200, body: wrapped({ ttl, renewable: token.renewable, type: "service" }) };
    }
    if (path === "auth/token/revoke-self") {
      state.revoked += 1;
      tokens.delete(token.secret);
      return { status: 204 };
    }
    return refusal(404, `no handler for route "${path}". route entry not found.`);
  }

  function tokenOf({ headers }: Asked): Token | undefined {
    const token = tokens.get(String(headers["x-vault-token"] ?? ""));
    return token !== undefined && token.untilMs > Date.now() && token.namespace === namespaceOf(headers)
      ? token
      : undefined;
  }

  function answer(asked: Asked): Said {
    const path = asked.path.replace(/^\/v1\//, "");
    if (state.requireRequestHeader && asked.headers["x-vault-request"] !== "true") {
      return refusal(412, "missing 'X-Vault-Request' header");
    }
    if (path === "sys/health") return health(asked.query);
    if (state.sealed || !state.initialized) return refusal(503, "Vault is sealed");
    if (state.standby) return refusal(500, "local node not active but active cluster node not found");
    const atLogin = namespaceOf(asked.headers) === namespace ? logIn(path, asked) : undefined;
    if (atLogin !== undefined) return atLogin;
    const token = tokenOf(asked);
    if (token === undefined)
      return refusal(403, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n");
    if (!token.may.some((one) => path.startsWith(one))) {
      return refusal(403, "1 error occurred:\n\t* permission denied\n\n");
    }
    if (path.startsWith("auth/token/")) return ownToken(path, token);
    if (path.startsWith("sys/internal/ui/mounts/"))
      return mount(path.slice("sys/internal/ui/mounts/".length));
    const [, part = "", rest = ""] = /^secret\/([a-z]+)\/(.*)$/.exec(path) ?? [];
    if (part === "" || rest.endsWith(".")) return noRoute(path);
    return engine.answer(asked.method, part, rest, asked);
  }

  function mount(name: string): Said {
    if (name !== "secret") return refusal(403, `preflight capability check returned 403`);
    const options = state.kvVersion === "1" ? null : { version: state.kvVersion };
    return { status: 200, body: wrapped({ path: "secret/", type: "kv", options }) };
  }

  const server = await openFaultyHttp(answer, o.tls === undefined ? {} : { tls: o.tls });
  return {
    ...server,
    kv: engine,
    vault: state,
    makeToken,
    /** Every token is unknown from now on. */
    forgetTokens: () => tokens.clear(),
    /** How many tokens are known. */
    tokens: () => tokens.size,
  };
}
export type VaultStandIn = Awaited<ReturnType<typeof openVaultStandIn>>;

const noRoute = (path: string): Said =>
  refusal(404, `no handler for route "${path}". route entry not found.`);

function namespaceOf(headers: Asked["headers"]): string {
  return String(headers["x-vault-namespace"] ?? "").replace(/\/$/, "");
}

const leftOf = (token: Token): number => Math.max(0, Math.floor((token.untilMs - Date.now()) / 1_000));

function authOf(token: Token) {
  return {
    client_token: token.secret,
    accessor: "accessor",
    policies: ["default", "muster"],
    lease_duration: Math.max(0, Math.round((token.untilMs - Date.now()) / 1_000)),
    renewable: token.renewable,
    orphan: true,
  };
}
