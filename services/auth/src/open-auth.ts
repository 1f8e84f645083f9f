import type { Broker, RequestHandlers } from "@muster/broker/broker";
import { authRequests } from "@muster/contracts/auth";
import type { Database } from "@muster/database/database";
import type { Logger } from "@muster/telemetry/logger";
import { exchangeApiKeys } from "./api-keys/exchange.ts";
import { apiKeyStore } from "./api-keys/store.ts";
import { openActiveKey } from "./signing/active-key.ts";
import { Minter } from "./signing/minter.ts";
import { sealerOf } from "./signing/sealed.ts";
import { findPublished } from "./signing/store.ts";

export interface AuthOptions {
  readonly database: Database;
  readonly broker: Pick<Broker, "serve">;
  readonly keyEncryptionKey: Buffer;
  readonly tokenTtlSeconds: number;
  readonly logger: Logger;
}

/** Resolves when it answers; closing the broker ends it. Throws when the signing key cannot be opened. */
export async function openAuth(o: AuthOptions): Promise<{ kid: string }> {
  const { database, broker } = o;
  const key = await openActiveKey(database, sealerOf(o.keyEncryptionKey));
  const minter = new Minter({ key, ttlSeconds: o.tokenTtlSeconds, keptMax: 10_000, now: Date.now });
  const handlers: RequestHandlers<typeof authRequests> = {
    exchangeApiKey: exchangeApiKeys({
      database,
      keys: apiKeyStore(database),
      mint: (id, principal, notAfter) => minter.mint(id, principal, notAfter),
    }),
    getKeys: () => database.transaction("system", findPublished, { readOnly: true }),
  };
  await broker.serve("auth", authRequests, handlers);
  o.logger.info({ kid: key.kid }, "signs with this key");
  return { kid: key.kid };
}
