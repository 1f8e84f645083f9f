import {
  noPermissions,
  servicePermissions,
  topologyPermissions,
  type BrokerPermissions,
} from "@muster/contracts/permissions";
import { logins, type Login } from "@muster/contracts/senders";
import { topologyOf, type Mesh } from "@muster/contracts/topology";
import { Management } from "./management.ts";
import type { TopologyTarget } from "./topology-apply.ts";

/** One login of the broker, for one vhost. */
export interface BrokerUser {
  readonly name: string;
  readonly password: string;
  /**
   * `policymaker` may set policies by the management API, `administrator` may block users and close connections; without a
   * tag a user may not use that at all.
   */
  readonly tag?: "policymaker" | "administrator";
  readonly permissions: BrokerPermissions;
}

/** Makes the user or brings it up to date. The target's user must be an administrator. */
export async function ensureUser(target: TopologyTarget, user: BrokerUser): Promise<void> {
  const management = new Management(target.managementUrl, target.amqpUrl);
  const { topics, ...permissions } = user.permissions;
  await management.putUser(user.name, { password: user.password, tags: user.tag ?? "" });
  // First which keys, then which exchanges: the other way round every key would be allowed for a moment.
  for (const topic of topics) await management.put("topic-permissions", user.name, topic);
  await management.put("permissions", user.name, permissions);
}

/** A user for each login, with the least that it needs. */
export async function ensureLogins(
  target: TopologyTarget,
  mesh: Mesh,
  credentials: (login: Login) => { name: string; password: string },
): Promise<Record<Login, BrokerUser>> {
  const topology = topologyOf(mesh);
  const users = logins.map((login): [Login, BrokerUser] => {
    if (login === "topology") {
      return [
        login,
        { ...credentials(login), tag: "policymaker", permissions: topologyPermissions(topology) },
      ];
    }
    if (login === "warden") {
      return [login, { ...credentials(login), tag: "administrator", permissions: noPermissions }];
    }
    return [login, { ...credentials(login), permissions: servicePermissions(mesh, topology, login) }];
  });
  await Promise.all(users.map(([, user]) => ensureUser(target, user)));
  return Object.fromEntries(users) as Record<Login, BrokerUser>;
}

/** The same URL, of AMQP or of the management API, for this user. */
export function urlFor(given: string, { name, password }: Pick<BrokerUser, "name" | "password">): string {
  const url = new URL(given);
  url.username = encodeURIComponent(name);
  url.password = encodeURIComponent(password);
  return url.href;
}
