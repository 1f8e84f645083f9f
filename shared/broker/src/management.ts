import { z } from "zod";

const timeoutMs = 10_000;

export const exchangeRow = z.object({ type: z.string(), durable: z.boolean() });
export const queueRow = z.object({
  durable: z.boolean(),
  arguments: z.record(z.string(), z.unknown()),
  policy: z.string().nullish(),
  type: z.string().optional(),
  /** Of a quorum queue: the nodes that keep it, and those of them that are up. */
  members: z.array(z.string()).optional(),
  online: z.array(z.string()).optional(),
  /** Both are not told by a queue that has no leader, nor in its first seconds; an old length may be told on. */
  state: z.string().optional(),
  messages: z.number().optional(),
});
export const bindingRows = z.array(
  z.object({ destination: z.string(), destination_type: z.string(), routing_key: z.string() }),
);
export const policyRows = z.array(
  z.object({
    name: z.string(),
    pattern: z.string(),
    "apply-to": z.string(),
    priority: z.number(),
    definition: z.record(z.string(), z.unknown()),
  }),
);

/** The virtual host that an AMQP URL names. */
export function vhostOf(amqpUrl: string): string {
  const path = new URL(amqpUrl).pathname.slice(1);
  return path === "" ? "/" : decodeURIComponent(path);
}

/** RabbitMQ's management HTTP API, for what AMQP cannot ask or set: policies, bindings, arguments. */
export class Management {
  readonly #origin: string;
  readonly #authorization: string;
  readonly #vhost: string;

  /** `url` carries user and password; `amqpUrl` says which vhost. */
  constructor(url: string, amqpUrl: string) {
    const { origin, pathname, username, password } = new URL(url);
    this.#origin = `${origin}${pathname.replace(/\/$/, "")}`;
    const user = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`;
    this.#authorization = `Basic ${Buffer.from(user).toString("base64")}`;
    this.#vhost = encodeURIComponent(vhostOf(amqpUrl));
  }

  /** What there is of `kind` (and name and below), or undefined where there is none. */
  async get<S extends z.ZodType>(
    schema: S,
    kind: string,
    ...below: string[]
  ): Promise<z.output<S> | undefined> {
    return this.#read(schema, this.#path(kind, below));
  }

  async #read<S extends z.ZodType>(schema: S, path: string): Promise<z.output<S> | undefined> {
    const response = await this.#fetch("GET", path);
    if (response.status === 404) return undefined;
    const parsed = schema.safeParse(await this.#json(response, path));
    if (parsed.success) return parsed.data;
    throw new Error(`the management API answered ${path} in an unknown shape`, { cause: parsed.error });
  }

  async put(kind: string, name: string, body: unknown): Promise<void> {
    const path = this.#path(kind, [name]);
    await this.#json(await this.#fetch("PUT", path, body), path);
  }

  /** Users belong to no vhost. */
  async putUser(
    name: string,
    body:
      | { readonly password: string; readonly tags: string }
      | { readonly password_hash: ""; readonly tags: string },
  ): Promise<void> {
    await this.putAt(["users", name], body);
  }

  /** What belongs to no vhost, or to all; undefined where there is none. */
  async getAt<S extends z.ZodType>(
    schema: S,
    parts: readonly string[],
    query = "",
  ): Promise<z.output<S> | undefined> {
    const path = `${pathOf(parts)}${query === "" ? "" : `?${query}`}`;
    return this.#read(schema, path);
  }

  async putAt(parts: readonly string[], body: unknown): Promise<void> {
    const path = pathOf(parts);
    await this.#json(await this.#fetch("PUT", path, body), path);
  }

  /** Again is harmless. `reason` is told to whose connection it ends. */
  async removeAt(parts: readonly string[], reason?: string): Promise<void> {
    const path = pathOf(parts);
    const response = await this.#fetch("DELETE", path, undefined, reason);
    if (response.status === 404) await response.arrayBuffer();
    else await this.#json(response, path);
  }

  #path(kind: string, below: readonly string[]): string {
    return `/api/${kind}/${this.#vhost}${below.map((part) => `/${encodeURIComponent(part)}`).join("")}`;
  }

  async #fetch(method: string, path: string, body?: unknown, reason?: string): Promise<Response> {
    try {
      return await fetch(`${this.#origin}${path}`, {
        method,
        headers: {
          authorization: this.#authorization,
          "content-type": "application/json",
          ...(reason === undefined ? {} : { "x-reason": reason }),
        },
        signal: AbortSignal.timeout(timeoutMs),
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      });
    } catch (cause) {
      throw new Error(`the management API at ${this.#origin} does not answer; is its plugin enabled?`, {
        cause,
      });
    }
  }

  async #json(response: Response, path: string): Promise<unknown> {
    const text = await response.text();
    if (response.status === 401 || response.status === 403) {
      throw new Error(
        `the management API refuses ${path}; its user needs the tag administrator or policymaker`,
      );
    }
    if (!response.ok) throw new Error(`the management API answered ${path} with ${response.status}: ${text}`);
    return text === "" ? undefined : (JSON.parse(text) as unknown);
  }
}

const pathOf = (parts: readonly string[]): string =>
  `/api/${parts.map((part) => encodeURIComponent(part)).join("/")}`;
