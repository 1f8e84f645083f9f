import { z } from "zod";

/** A message as RabbitMQ's management API hands it out. */
const takenMessage = z.object({
  routing_key: z.string(),
  exchange: z.string(),
  redelivered: z.boolean(),
  payload: z.string(),
  properties: z
    .object({
      message_id: z.string().optional(),
      type: z.string().optional(),
      headers: z.record(z.string(), z.unknown()).default({}),
    })
    .catch({ headers: {} }),
});
export type TakenMessage = z.infer<typeof takenMessage>;

const takenMessages = z.array(takenMessage);
const connections = z.array(z.object({ name: z.string(), user_provided_name: z.string().optional() }));

/** A vhost is deleted queue by queue, and one without a leader takes its time. */
const callTimeoutMs = 60_000;

/** One call of the management API; `path` is below `/api`. Throws unless the answer is 2xx or in `alsoFine`. */
export async function callManagement(
  managementUrl: string,
  method: "GET" | "PUT" | "POST" | "DELETE",
  path: string,
  body?: unknown,
  alsoFine: readonly number[] = [],
): Promise<unknown> {
  const { origin, username, password } = new URL(managementUrl);
  const basic = Buffer.from(`${decodeURIComponent(username)}:${decodeURIComponent(password)}`).toString(
    "base64",
  );
  const response = await fetch(`${origin}/api${path}`, {
    method,
    headers: { authorization: `Basic ${basic}`, "content-type": "application/json" },
    signal: AbortSignal.timeout(callTimeoutMs),
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  const text = await response.text();
  if (!response.ok && !alsoFine.includes(response.status)) {
    throw new Error(`${method} ${path}: ${response.status} ${text}`);
  }
  return response.ok && text !== "" ? JSON.parse(text) : undefined;
}

/** Takes up to `countMax` messages out of a queue for good. */
export async function takeMessages(
  managementUrl: string,
  vhost: string,
  queue: string,
  countMax: number,
): Promise<TakenMessage[]> {
  const path = `/queues/${encodeURIComponent(vhost)}/${encodeURIComponent(queue)}/get`;
  const body = { count: countMax, ackmode: "ack_requeue_false", encoding: "auto" };
  return takenMessages.parse(await callManagement(managementUrl, "POST", path, body));
}

/** Makes the broker close the vhost's connections whose given name starts so; answers how many. */
export async function closeConnections(
  managementUrl: string,
  vhost: string,
  nameStart: string,
): Promise<number> {
  const path = `/vhosts/${encodeURIComponent(vhost)}/connections`;
  const all = connections.parse(await callManagement(managementUrl, "GET", path));
  const chosen = all.filter(({ user_provided_name: given }) => given?.startsWith(nameStart) === true);
  for (const { name } of chosen) {
    await callManagement(
      managementUrl,
      "DELETE",
      `/connections/${encodeURIComponent(name)}`,
      undefined,
      [404],
    );
  }
  return chosen.length;
}
