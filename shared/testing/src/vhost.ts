import { randomUUID } from "node:crypto";
import { callManagement, closeConnections, takeMessages, type TakenMessage } from "./management.ts";

export interface Vhost {
  readonly name: string;
  /** Of an administrator, who is nobody on the mesh: what is sent by it is refused. See `urlAs`. */
  readonly amqpUrl: string;
  readonly managementUrl: string;
  /** Takes up to `countMax` messages out of a queue for good. */
  take(queue: string, countMax?: number): Promise<TakenMessage[]>;
  /** Publishes as another client would, `as` this login or as the administrator; answers whether a queue took it. */
  publish(o: {
    as?: string;
    exchange?: string;
    routingKey: string;
    properties?: object;
    payload: string;
  }): Promise<boolean>;
  deleteQueue(queue: string): Promise<void>;
  /** Any call of the management API below `/api`; `{vhost}` in the path stands for this one. */
  call(method: "GET" | "PUT" | "POST" | "DELETE", path: string, body?: unknown): Promise<unknown>;
  /** Makes the broker close connections whose given name starts so; answers how many. */
  closeConnections(nameStart: string): Promise<number>;
  /** Credentials for a login of this vhost alone, to be made by the caller; the same login gives the same. */
  newUser(login: string): { name: string; password: string };
  /** The AMQP URL of a login of this name, such as `muster-vm-ops`, which is made here and may do everything in this vhost. */
  urlAs(login: string): Promise<string>;
  /** With every user of `newUser` and `urlAs`. */
  destroy(): Promise<void>;
}

/**
 * A new vhost for one test file, on the given broker or the test broker (MUSTER_TEST_AMQP_URL,
 * MUSTER_TEST_MANAGEMENT_URL). The user of the URL gets every permission in it.
 */
export async function setupVhost(broker?: { amqpUrl: string; managementUrl: string }): Promise<Vhost> {
  const managementUrl = broker?.managementUrl ?? needed("MUSTER_TEST_MANAGEMENT_URL");
  const amqp = new URL(broker?.amqpUrl ?? needed("MUSTER_TEST_AMQP_URL"));
  const name = `test-${randomUUID()}`;
  amqp.pathname = `/${name}`;
  const call: Vhost["call"] = (method, path, body) =>
    callManagement(managementUrl, method, path.replace("{vhost}", encodeURIComponent(name)), body);
  await call("PUT", "/vhosts/{vhost}");
  const user = encodeURIComponent(decodeURIComponent(amqp.username));
  const everything = { configure: ".*", write: ".*", read: ".*" };
  await call("PUT", `/permissions/{vhost}/${user}`, everything);
  const users = new Map<string, string>();
  const newUser = (login: string, place = name): { name: string; password: string } => {
    const full = `${login}@${place}`;
    const password = users.get(full) ?? randomUUID();
    users.set(full, password);
    return { name: full, password };
  };
  const made = new Map<string, Promise<void>>();
  async function make(full: string, password: string): Promise<void> {
    const path = encodeURIComponent(full);
    await call("PUT", `/users/${path}`, { password, tags: "management" });
    await call("PUT", `/permissions/{vhost}/${path}`, everything);
  }
  // Not one of `newUser`: those have the permissions that they are given.
  const open = (login: string) => newUser(login, `${name}-open`);
  async function logIn(login: string, url: string): Promise<string> {
    const { name: full, password } = open(login);
    const making = made.get(full) ?? make(full, password);
    made.set(full, making);
    await making;
    return withUser(url, full, password);
  }
  return {
    name,
    amqpUrl: amqp.href,
    managementUrl,
    call,
    take: (queue, countMax = 100) => takeMessages(managementUrl, name, queue, countMax),
    publish: async ({ as, exchange = "amq.default", routingKey, properties = {}, payload }) => {
      const sender = as === undefined ? {} : { user_id: open(as).name };
      const all = { ...sender, ...properties };
      const body = { routing_key: routingKey, properties: all, payload, payload_encoding: "string" };
      const url = as === undefined ? managementUrl : await logIn(as, managementUrl);
      const path = `/exchanges/${encodeURIComponent(name)}/${encodeURIComponent(exchange)}/publish`;
      const answer = await callManagement(url, "POST", path, body);
      return typeof answer === "object" && answer !== null && Reflect.get(answer, "routed") === true;
    },
    deleteQueue: async (queue) => {
      await call("DELETE", `/queues/{vhost}/${encodeURIComponent(queue)}`);
    },
    closeConnections: (nameStart) => closeConnections(managementUrl, name, nameStart),
    newUser: (login) => newUser(login),
    urlAs: (login) => logIn(login, amqp.href),
    destroy: async () => {
      if (users.size > 0) await call("POST", "/users/bulk-delete", { users: [...users.keys()] });
      await call("DELETE", "/vhosts/{vhost}");
    },
  };
}

function withUser(given: string, name: string, password: string): string {
  const url = new URL(given);
  url.username = encodeURIComponent(name);
  url.password = encodeURIComponent(password);
  return url.href;
}

function needed(name: string): string {
  const value = process.env[name];
  if (value === undefined || value === "")
    throw new Error(`${name} is not set; run the tests by ./scripts/test`);
  return value;
}
