import { Management, vhostOf } from "@muster/broker/management";
import { senderOf } from "@muster/contracts/senders";
import { z } from "zod";
import type { BrokerGuard } from "./evictions.ts";

const pageSize = 500;
const connectionPage = z.object({
  page_count: z.number().int(),
  items: z.array(z.object({ user: z.string().optional(), vhost: z.string().optional() })),
});
const userRows = z.array(z.object({ name: z.string() }));

/**
 * The broker's management API. A user of the broker's own by the same name as a token's, with no connection allowed and no
 * password, is how RabbitMQ refuses a token that has not expired: it holds limits by name, whoever vouched for the login.
 */
export function guardBy(url: string, amqpUrl: string): BrokerGuard {
  const management = new Management(url, amqpUrl);
  const own = vhostOf(amqpUrl);
  return {
    async block(login) {
      await management.putUser(login, { password_hash: "", tags: "" });
      await management.putAt(["user-limits", login, "max-connections"], { value: 0 });
    },
    unblock: (login) => management.removeAt(["users", login]),
    closeConnections: (login, reason) => management.removeAt(["connections", "username", login], reason),
    async *connectedByToken() {
      let pages = 1;
      for (let page = 1; page <= pages; page++) {
        const query = `page=${page}&page_size=${pageSize}&pagination=true&columns=user,vhost`;
        const answer = await management.getAt(connectionPage, ["connections"], query);
        if (answer === undefined) return;
        pages = answer.page_count;
        // A broker may serve another installation in another vhost.
        const agents = answer.items.flatMap(({ user, vhost }) =>
          user !== undefined && vhost === own && senderOf(user)?.kind === "agent" ? [user] : [],
        );
        if (agents.length === 0) continue;
        // Whoever an administrator gave a password has no token that could expire.
        const users = (await management.getAt(userRows, ["users"], "columns=name")) ?? [];
        const byPassword = new Set(users.map(({ name }) => name));
        const byToken = agents.filter((user) => !byPassword.has(user));
        if (byToken.length > 0) yield byToken;
      }
    },
  };
}
