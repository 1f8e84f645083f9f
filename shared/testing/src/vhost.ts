import { randomUUID } from "node:crypto";
import { callManagement, closeConnections, takeMessages, type TakenMessage } from "./management.ts";

export interface Vhost {
  readonly name: string;
  readonly amqpUrl: string;
  readonly managementUrl: string;
  /** Takes up to `countMax` messages out of a queue for good. */
  take(queue: string, countMax?: number): Promise<TakenMessage[]>;
  /** Publishes as another client would; answers whether a queue took it. */
  publish(o: {
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
  /** Credentials for a user of this vhost alone, to be made by the caller; the same name gives the same. */
  newUser(name: string): { name: string; password: string };
  /** With every user of `newUser`. */
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
  await call("PUT", `/permissions/{vhost}/${user}`, { configure: ".*", write: ".*", read: ".*" });
  const users = new Map<string, string>();
  return {
    name,
    amqpUrl: amqp.href,
    managementUrl,
    call,
    take: (queue, countMax = 100) => takeMessages(managementUrl, name, queue, countMax),
    publish: async ({ exchange = "amq.default", routingKey, properties = {}, payload }) => {
      const body = { routing_key: routingKey, properties, payload, payload_encoding: "string" };
      const answer = await call("POST", `/exchanges/{vhost}/${encodeURIComponent(exchange)}/publish`, body);
      return typeof answer === "object" && answer !== null && Reflect.get(answer, "routed") === true;
    },
    deleteQueue: async (queue) => {
      await call("DELETE", `/queues/{vhost}/${encodeURIComponent(queue)}`);
    },
    closeConnections: (nameStart) => closeConnections(managementUrl, name, nameStart),
    newUser: (short) => {
      const full = `${name}-${short}`;
      const password = users.get(full) ?? randomUUID();
      users.set(full, password);
      return { name: full, password };
    },
    destroy: async () => {
      if (users.size > 0) await call("POST", "/users/bulk-delete", { users: [...users.keys()] });
      await call("DELETE", "/vhosts/{vhost}");
    },
  };
}

function needed(name: string): string {
  const value = process.env[name];
  if (value === undefined || value === "")
    throw new Error(`${name} is not set; run the tests by ./scripts/test`);
  return value;
}
