import type { routes } from "@muster/contracts/routes";
import type { Handlers } from "@muster/http/handler";

type Own = Pick<Handlers<typeof routes>, "whoami">;

export function identityHandlers(): Own {
  return { whoami: async ({ principal }) => ({ data: principal }) };
}
