import { apiKeyPattern } from "@muster/contracts/auth";
import { MusterError } from "@muster/contracts/errors";
import type { routes } from "@muster/contracts/routes";
import type { Handlers } from "@muster/http/handler";
import type { ApiKeys } from "../identity/api-keys.ts";

type Own = Pick<Handlers<typeof routes>, "whoami" | "exchangeApiKey">;

export function identityHandlers({ apiKeys }: { apiKeys: Pick<ApiKeys, "tokenFor"> }): Own {
  return {
    whoami: async ({ principal }) => ({ data: principal }),

    async exchangeApiKey({ bearer }) {
      if (bearer === undefined) throw new MusterError("MISSING_BEARER_TOKEN");
      if (!apiKeyPattern.test(bearer)) {
        const details = [{ path: "header.authorization", message: "must be an API key" }];
        throw new MusterError("INVALID_OR_MISSING_BEARER_TOKEN", undefined, { details });
      }
      const { token, principal, expiresAtMs } = await apiKeys.tokenFor(bearer);
      const leftSeconds = Math.max(1, Math.floor((expiresAtMs - Date.now()) / 1_000));
      return {
        data: { access_token: token, token_type: "Bearer", expires_in_seconds: leftSeconds, principal },
      };
    },
  };
}
