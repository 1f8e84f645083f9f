import { createHash } from "node:crypto";
import { apiKeyPattern, authRequests } from "@muster/contracts/auth";
import { MusterError } from "@muster/contracts/errors";
import { uuid, uuidv7 } from "@muster/contracts/ids";
import type { ReplyOf } from "@muster/contracts/define";
import type { RouteReplyOf } from "@muster/contracts/route";
import { routes } from "@muster/contracts/routes";
import { jwtBearer, tokenExchange } from "@muster/contracts/routes/tokens";
import { refreshTokenPattern, subjectTokenPattern } from "@muster/contracts/tokens";
import type { Handlers, RouteRequest } from "@muster/http/handler";
import type { Ask } from "../asking.ts";
import { authUnavailable } from "../identity/api-keys.ts";
import type { ApiKeys } from "../identity/api-keys.ts";
import type { Identify } from "../identity/authenticate.ts";

type Own = Pick<Handlers<typeof routes>, "exchangeApiKey" | "revokeToken">;
type TokenRequest = RouteRequest<(typeof routes)["exchangeApiKey"]>;
type Tokens = RouteReplyOf<(typeof routes)["exchangeApiKey"]>;
type Granted = ReplyOf<typeof authRequests.issueToken>;

interface Deps {
  readonly ask: Ask;
  readonly identify: Identify;
  readonly apiKeys: Pick<ApiKeys, "tokenFor">;
  readonly authTimeoutMs: number;
}

/**
 * The grants of OAuth 2.0, and the exchange of an API key. Keys, secrets and our own tokens are hashed here: none enters a
 * queue. A token of an outside issuer has to be read by auth, and travels as an access token does.
 */
export function tokenHandlers(deps: Deps): Own {
  return {
    async exchangeApiKey(request) {
      const { grant_type, scope } = request.body;
      if (grant_type === "refresh_token") return { data: await refreshed(deps, request) };
      if (grant_type === tokenExchange) return { data: await foreign(deps, request) };
      if (grant_type === jwtBearer) return { data: await byAssertion(deps, request) };
      if (grant_type === "client_credentials") return { data: await byClient(deps, request) };
      const key = await apiKeyOf(deps, request);
      return {
        data:
          scope === undefined
            ? await exchanged(deps, key, request)
            : await byKey(deps, request, { key, scope }),
      };
    },

    async revokeToken(request) {
      const { token } = request.body;
      if (!refreshTokenPattern.test(token)) return { data: {} };
      const payload = { token_sha256: sha256(token), ...from(request) };
      await asked(deps.ask(authRequests.revokeToken, payload, request, deps.authTimeoutMs));
      return { data: {} };
    },
  };
}

/** Where what is presented comes from: auth counts what fails by it. */
function from({ clientAddress }: Pick<TokenRequest, "clientAddress">): { client_address?: string } {
  return clientAddress === undefined ? {} : { client_address: clientAddress };
}

/** The bearer, where it is an API key that works or may. Throws MISSING_BEARER_TOKEN, INVALID_OR_MISSING_BEARER_TOKEN. */
async function apiKeyOf({ identify }: Deps, request: TokenRequest): Promise<string> {
  const { bearer } = request;
  // What is refused here is counted as at every other route; shadow mode, which refuses nothing, makes no tokens.
  await identify({ ...request, route: routes.exchangeApiKey });
  if (bearer === undefined) throw new MusterError("MISSING_BEARER_TOKEN");
  if (apiKeyPattern.test(bearer)) return bearer;
  const details = [{ path: "header.authorization", message: "must be an API key" }];
  throw new MusterError("INVALID_OR_MISSING_BEARER_TOKEN", undefined, { details });
}

async function exchanged({ apiKeys }: Deps, key: string, { clientAddress }: TokenRequest): Promise<Tokens> {
  const { token, principal, expiresAtMs } = await apiKeys.tokenFor(key, clientAddress);
  const leftSeconds = Math.max(1, Math.floor((expiresAtMs - Date.now()) / 1_000));
  return { access_token: token, token_type: "Bearer", expires_in_seconds: leftSeconds, principal };
}

async function byKey(
  deps: Deps,
  request: TokenRequest,
  { key, scope, clientId }: { key: string; scope: string | undefined; clientId?: string },
): Promise<Tokens> {
  const payload = {
    prefix: key.split("_", 2)[1] ?? "",
    key_sha256: sha256(key),
    ...(clientId === undefined ? {} : { client_id: clientId }),
    ...(scope === undefined ? {} : { scope }),
    ...from(request),
  };
  return shown(await asked(deps.ask(authRequests.issueToken, payload, request, deps.authTimeoutMs)));
}

async function byClient(deps: Deps, request: TokenRequest): Promise<Tokens> {
  const { basic, body } = request;
  const inBody = body.client_id !== undefined || body.client_secret !== undefined;
  if (basic !== undefined && inBody) {
    const details = [
      { path: "header.authorization", message: "send client_id and client_secret in one place" },
    ];
    throw new MusterError("VALIDATION_FAILED", undefined, { details });
  }
  const clientId = basic?.user ?? body.client_id;
  const secret = basic?.password ?? body.client_secret;
  // Whatever can be no client's says nothing of any client: it need not be asked for.
  if (!uuid.safeParse(clientId).success || secret === undefined || !apiKeyPattern.test(secret)) {
    throw new MusterError("INVALID_CLIENT");
  }
  return await byKey(deps, request, { key: secret, scope: body.scope, clientId: clientId ?? "" });
}

async function refreshed(deps: Deps, { body, idempotencyKey, ...request }: TokenRequest): Promise<Tokens> {
  const token = body.refresh_token ?? "";
  if (!refreshTokenPattern.test(token)) throw new MusterError("INVALID_GRANT");
  const payload = {
    token_sha256: sha256(token),
    // Made here where the client names none: the message may be delivered twice, and is one request then too.
    request_key: idempotencyKey ?? uuidv7(),
    ...(body.scope === undefined ? {} : { scope: body.scope }),
    ...from(request),
  };
  return shown(await asked(deps.ask(authRequests.refreshToken, payload, request, deps.authTimeoutMs)));
}

async function foreign(deps: Deps, { body, ...request }: TokenRequest): Promise<Tokens> {
  const { subject_token = "", subject_token_type, audience, scope } = body;
  if (!subjectTokenPattern.test(subject_token) || subject_token_type === undefined) {
    throw new MusterError("INVALID_GRANT");
  }
  const payload = {
    subject_token,
    subject_token_type,
    ...(audience === undefined ? {} : { tenant_id: audience }),
    ...(scope === undefined ? {} : { scope }),
    ...from(request),
  };
  const granted = await asked(deps.ask(authRequests.exchangeToken, payload, request, deps.authTimeoutMs));
  return { ...shown(granted), issued_token_type: "urn:ietf:params:oauth:token-type:access_token" };
}

/** An agent's: what it gets is for the broker, and of no use here. */
async function byAssertion(deps: Deps, { body, ...request }: TokenRequest): Promise<Tokens> {
  const { assertion = "" } = body;
  if (!subjectTokenPattern.test(assertion)) throw new MusterError("INVALID_GRANT");
  const payload = { assertion, ...from(request) };
  const answer = await asked(deps.ask(authRequests.issueAgentTokens, payload, request, deps.authTimeoutMs));
  const { tenant_id, access_token, expires_in_seconds, ...agent } = answer;
  const subject = `agent:${agent.agent_id}`;
  return {
    ...{ access_token, token_type: "Bearer", expires_in_seconds },
    principal: { tenant_id, subject, roles: [], permissions: [] },
    agent,
  };
}

function shown(granted: Granted): Tokens {
  return {
    access_token: granted.access_token,
    token_type: "Bearer",
    expires_in_seconds: granted.expires_in_seconds,
    principal: granted.principal,
    scope: granted.scope,
    ...(granted.refresh_token === null ? {} : { refresh_token: granted.refresh_token }),
    ...(granted.refresh_expires_at === null ? {} : { refresh_expires_at: granted.refresh_expires_at }),
  };
}

const refusals: ReadonlySet<string> = new Set([
  "INVALID_CLIENT",
  "INVALID_GRANT",
  "INVALID_SCOPE",
  "INVALID_OR_MISSING_BEARER_TOKEN",
  "VALIDATION_FAILED",
  "RATE_LIMITED",
]);

/** That auth cannot be asked says nothing about what was presented. */
async function asked<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw error instanceof MusterError && refusals.has(error.code) ? error : authUnavailable(error);
  }
}

const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex");
