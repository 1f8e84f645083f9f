import { createClient } from "@muster/client/client";
import type { ErrorCode } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import { eventually } from "@muster/testing/eventually";
import { asAdmin } from "../model/facts.ts";
import type { System } from "../system.ts";
import { openSender, type Sent } from "./sending.ts";
import { signerOfSystem, stranger, type Changes, type Signer } from "./signer.ts";

/** What a request brings of whom it comes from, and the code that it is refused with. */
export interface NoIdentity {
  readonly headers: NonNullable<Sent["headers"]>;
  readonly code: Extract<ErrorCode, "MISSING_BEARER_TOKEN" | "INVALID_OR_MISSING_BEARER_TOKEN">;
}

const invalid = (authorization: string | readonly string[]): NoIdentity => ({
  headers: { authorization },
  code: "INVALID_OR_MISSING_BEARER_TOKEN",
});
const missing = (headers: NoIdentity["headers"] = {}): NoIdentity => ({
  headers,
  code: "MISSING_BEARER_TOKEN",
});
const bearer = (token: string): NoIdentity => invalid(`Bearer ${token}`);

/** A good token in every place and form that is not `Authorization: Bearer` with it alone. */
export function malformed(token: string): Record<string, NoIdentity> {
  return {
    "no token": missing(),
    "a token as a cookie": missing({ cookie: `access_token=${token}; token=${token}` }),
    "a token in headers of others": missing({ "proxy-authorization": `Bearer ${token}`, "x-api-key": token }),
    "an empty header": invalid(""),
    "a scheme alone": invalid("Bearer"),
    "a token without a scheme": invalid(token),
    "another scheme": invalid(`Token ${token}`),
    "Basic, with the token as password": invalid(`Basic ${Buffer.from(`user:${token}`).toString("base64")}`),
    "something behind the token": invalid(`Bearer ${token} ${token}`),
    "two tokens in one header": invalid(`Bearer ${token}, Bearer ${token}`),
    "two headers": invalid([`Bearer ${token}`, `Bearer ${token}`]),
    "garbage and a good one behind it": invalid(["Bearer garbage", `Bearer ${token}`]),
    "a token in quotes": invalid(`Bearer "${token}"`),
    garbage: bearer("garbage"),
    "a token cut short": bearer(token.slice(0, -8)),
    "two signatures": bearer(`${token}.${token.split(".")[2]}`),
  };
}

/** Tokens that our key signed, or another, and that say what no token of ours says. */
export function forged(signer: Signer, whose: Readonly<Record<string, unknown>>): Record<string, NoIdentity> {
  const now = Math.floor(Date.now() / 1_000);
  const says = (claims: Changes["claims"]): NoIdentity => bearer(signer.token({ claims: claims ?? {} }));
  const [, payload = ""] = signer.token().split(".");
  const unsigned = Buffer.from(JSON.stringify({ alg: "none", kid: signer.kid, typ: "at+jwt" }));
  return {
    "an expired token": says({ iat: now - 700, nbf: now - 700, exp: now - 60 }),
    "a token without an end": says({ exp: undefined }),
    "a token that is not valid yet": says({ nbf: now + 300 }),
    "a token for another audience": says({ aud: "elsewhere" }),
    "a token for ours and another audience": says({ aud: ["muster", "elsewhere"] }),
    "a token of another issuer": says({ iss: "https://auth.elsewhere" }),
    "a token without a tenant": says({ tenant_id: undefined }),
    "a token of no tenant's name": says({ tenant_id: "default,second" }),
    "a token with a role that there is not": says({ roles: ["operator"] }),
    "a token of another type": bearer(signer.token({ header: { typ: "JWT" } })),
    "an approval's token": bearer(signer.token({ header: { typ: "approval+jwt" } })),
    "a token that is not signed": bearer(`${unsigned.toString("base64url")}.${payload}.`),
    "a stranger's token under our key's id": bearer(stranger(signer.kid, whose).token()),
    "a stranger's token under an id of its own": bearer(stranger(uuidv7(), whose).token()),
  };
}

/** API keys that worked, or look as if they might. */
export async function brokenKeys(system: System): Promise<Record<string, NoIdentity>> {
  const { client } = system;
  const keyOf = async (principal_id?: string): Promise<{ id: string; secret: string }> => {
    const named = principal_id === undefined ? {} : { principal_id };
    const { data } = await client.createApiKey({ body: { name: "to be broken", ...named } });
    return { id: data.api_key.id, secret: data.secret ?? "" };
  };
  const robot = (await client.createServiceAccount({ body: { name: "to be disabled" } })).data
    .service_account;
  const [disabled, revoked, expired] = [await keyOf(robot.id), await keyOf(), await keyOf()];
  await client.revokeApiKey({ params: { id: revoked.id } });
  await client.disableServiceAccount({ params: { id: robot.id } });
  const suspended = await system.makeTenant("suspended", "owner@suspended.local");
  await asAdmin(system.adminDatabaseUrl, (admin) =>
    admin.run(
      `UPDATE auth.api_keys SET expires_at = clock_timestamp() - interval '1 s' WHERE id = '${expired.id}';
       UPDATE auth.tenants SET state = 'suspended' WHERE tenant_id = 'suspended'`,
    ),
  );
  return {
    "a revoked API key": bearer(revoked.secret),
    "an expired API key": bearer(expired.secret),
    "an API key of a disabled account": bearer(disabled.secret),
    "an API key of a suspended tenant": bearer(suspended),
    "an API key that never was": bearer(`mk_abcdefghij_${"A".repeat(43)}`),
    "an API key with another's prefix": bearer(`${system.apiKey.slice(0, 14)}${"A".repeat(43)}`),
    "an API key cut short": bearer(system.apiKey.slice(0, -1)),
  };
}

/**
 * A token by a key that was revoked a moment ago, and one who signs with the key after it. Resolves once the gateway
 * refuses the one and takes the other.
 */
export async function afterRevocation(
  system: System,
  sealingKey: Buffer,
  whose: Readonly<Record<string, unknown>>,
): Promise<{ refused: Record<string, NoIdentity>; signer: Signer }> {
  const before = await signerOfSystem(system.adminDatabaseUrl, sealingKey, whose);
  const token = before.token();
  const isTaken = async (held: string): Promise<boolean> => {
    const sender = openSender(system.gatewayUrl);
    const headers = { authorization: `Bearer ${held}` };
    const { status } = await sender.send({ method: "GET", path: "/api/v1/auth/whoami", headers });
    sender.close();
    return status === 200;
  };
  if (!(await isTaken(token))) throw new Error("a token by the key that signs is refused");
  await createClient({ baseUrl: system.gatewayUrl, token: system.apiKey }).revokeSigningKey({
    params: { kid: before.kid },
  });
  const signer = await signerOfSystem(system.adminDatabaseUrl, sealingKey, whose);
  await eventually(async () => !(await isTaken(token)) && (await isTaken(signer.token())), 15_000);
  const refused = {
    "a token by a revoked key": bearer(token),
    "a new token by a revoked key": bearer(before.token()),
  };
  return { refused, signer };
}
