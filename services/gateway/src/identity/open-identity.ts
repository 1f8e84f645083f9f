import type { Broker } from "@muster/broker/broker";
import { authRequests } from "@muster/contracts/auth";
import type { Jwks } from "@muster/contracts/auth";
import { uuidv7 } from "@muster/contracts/ids";
import { signingKeysChanged } from "@muster/contracts/signing-keys";
import { openMeshSigner } from "@muster/identity/mesh-signer";
import type { MeshSigner } from "@muster/identity/mesh-signer";
import { tokensRevoked } from "@muster/contracts/token-revocations";
import { readTrusted } from "@muster/identity/claims";
import { openVerifier } from "@muster/identity/verify";
import type { Verifier } from "@muster/identity/verify";
import type { Values } from "@muster/service/settings";
import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import { askAgain, askBy, askInShadow, askVouching } from "../asking.ts";
import type { Ask } from "../asking.ts";
import type { settings } from "../config.ts";
import { ApiKeys } from "./api-keys.ts";
import { identifyBearer } from "./authenticate.ts";
import type { Identify } from "./authenticate.ts";
import { KeyDocument } from "./key-document.ts";

export interface Identity {
  /** Asks for the caller; one who came with an API key gets another token when the first is refused. */
  readonly ask: Ask;
  readonly apiKeys: ApiKeys;
  readonly identify: Identify;
  readonly keyDocument: KeyDocument;
  /** Ok once the owners can know the key by which this process vouches for callers. */
  health(): ReturnType<MeshSigner["health"]>;
  /** For the broker, which verifies agents' tokens by it. */
  readonly brokerKeyDocument: KeyDocument;
  close(): Promise<void>;
}

/** Who sends a request: by access tokens, by API keys, and by the issuer's keys as they are now. */
export async function openIdentity(o: {
  readonly config: Values<typeof settings>;
  readonly broker: Pick<Broker, "request" | "state" | "hear">;
  readonly logger: Logger;
  readonly metrics: Metrics;
}): Promise<Identity> {
  const { config, broker, logger, metrics } = o;
  const ask = askBy(broker);
  const timeoutMs = config.MUSTER_GATEWAY_AUTH_TIMEOUT_MS;
  const fetchKeys = () => ask(authRequests.getKeys, {}, newWork(), timeoutMs);
  const apiKeys = new ApiKeys({
    exchange: async (asked) => {
      const answer = await ask(authRequests.exchangeApiKey, asked, newWork(), timeoutMs);
      return { ...answer, origin: readTrusted(answer.access_token).origin };
    },
    isVoid: (exchanged) => verifier.isVoid(exchanged),
    ttlMs: config.MUSTER_GATEWAY_API_KEY_TTL_MS,
    refusedTtlMs: 2_000,
    keysMax: 10_000,
    now: Date.now,
  });
  const shadowTenantId = config.MUSTER_SHADOW_TENANT_ID;
  const keysMaxAgeMs = config.MUSTER_KEYS_MAX_AGE_SECONDS * 1_000;
  const verifier = openVerifier({
    fetchKeys,
    fetchRevocations: (page) => ask(authRequests.listTokenRevocations, page, newWork(), timeoutMs),
    mode: "enforced",
    shadowTenantId,
    keysMaxAgeMs,
    logger,
    metrics,
  });
  const keyDocument = documentOf(fetchKeys, keysMaxAgeMs);
  const brokerKeyDocument = documentOf(
    () => ask(authRequests.getBrokerKeys, {}, newWork(), timeoutMs),
    keysMaxAgeMs,
  );
  const hearing = await hearChanges(broker, { verifier, apiKeys, keyDocument, brokerKeyDocument });
  const signer = openMeshSigner({
    service: "gateway",
    register: (key) => ask(authRequests.registerMeshKey, key, newWork(), timeoutMs),
    ...{ logger, metrics, waitMs: timeoutMs },
  });
  const vouching = askVouching(ask, { signer, logger });
  const verify = (token: string) => verifier.verify(token);
  return {
    ask: askAgain(
      config.AUTH_MODE === "shadow" ? askInShadow(vouching, { logger, metrics }) : vouching,
      apiKeys,
    ),
    apiKeys,
    identify: identifyBearer({ mode: config.AUTH_MODE, shadowTenantId, apiKeys, verify, logger, metrics }),
    keyDocument,
    health: () => signer.health(),
    brokerKeyDocument,
    async close() {
      await signer.close();
      await hearing.close();
      await verifier.close();
    },
  };
}

/** What auth changes: its keys of either kind, and which tokens are void. */
async function hearChanges(
  broker: Pick<Broker, "hear">,
  o: Pick<Identity, "apiKeys" | "keyDocument" | "brokerKeyDocument"> & {
    readonly verifier: Pick<Verifier, "keysChanged" | "tokensRevoked">;
  },
): Promise<{ close(): Promise<void> }> {
  const { verifier, apiKeys, keyDocument, brokerKeyDocument } = o;
  const changed = (revoked: readonly string[]): void => {
    verifier.keysChanged(revoked);
    keyDocument.changed(revoked);
    if (revoked.length > 0) apiKeys.forgetTokens();
  };
  const keys = await broker.hear(signingKeysChanged, {
    heard: ({ kind, revoked }) => {
      if (kind === "access") changed(revoked);
      else brokerKeyDocument.changed(revoked);
    },
    missed: () => {
      changed([]);
      brokerKeyDocument.changed();
    },
  });
  const revocations = await broker.hear(tokensRevoked, {
    heard: (revocation) => verifier.tokensRevoked(revocation),
    missed: () => {
      verifier.tokensRevoked();
      apiKeys.forgetTokens();
    },
  });
  return {
    async close() {
      await keys.close();
      await revocations.close();
    },
  };
}

const documentOf = (fetchKeys: () => Promise<Jwks>, keysMaxAgeMs: number): KeyDocument =>
  new KeyDocument({
    fetchKeys,
    maxAgeMs: Math.min(30_000, keysMaxAgeMs),
    publicMaxAgeMs: Math.min(300_000, keysMaxAgeMs),
    staleMaxMs: 10 * 60_000,
    now: Date.now,
  });

/** Work that no request caused: one answer serves many. */
function newWork(): { context: { correlationId: string } } {
  return { context: { correlationId: uuidv7() } };
}
