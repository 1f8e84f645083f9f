import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import type { Socket } from "node:net";
import type { Steps } from "./steps.ts";

type Publish = (
  this: object,
  exchange: string,
  routingKey: string,
  body: Buffer,
  options?: { type?: string },
  confirmed?: (error: unknown) => void,
) => boolean;
interface Message {
  readonly fields: { readonly exchange: string; readonly routingKey: string };
  readonly properties: { readonly type?: unknown };
}
type Settle = (this: object, message: Message, ...rest: unknown[]) => void;

/** Hints may be lost at any time; nothing waits for them. */
const lossyExchange = "muster.live";

/** Publishes, the arrival of their confirms, replies, and what is said of deliveries. */
export function countMessages(steps: Steps, from: string): void {
  const library = dirname(createRequire(from).resolve("amqplib"));
  const { Channel, ConfirmChannel } = createRequire(from)(join(library, "lib/channel_model.js")) as Record<
    "Channel" | "ConfirmChannel",
    { readonly prototype: object }
  >;
  countConfirmed(steps, ConfirmChannel.prototype);
  const publish = Reflect.get(Channel.prototype, "publish") as Publish;
  Reflect.set(
    Channel.prototype,
    "publish",
    function publishCounted(this: object, ...args: Parameters<Publish>) {
      const [exchange, routingKey, , options] = args;
      const transient = !(this instanceof (ConfirmChannel as unknown as new () => object));
      if (!transient || exchange === lossyExchange) return Reflect.apply(publish, this, args);
      const begun = steps.begin(
        `reply ${options?.type ?? (typeOf(args[2]) || routingKey.split(".")[0] || "")}`,
      );
      const room = Reflect.apply(publish, this, args);
      onceFlushed(this, () => begun.done());
      return room;
    },
  );
  for (const verb of ["ack", "nack", "reject"] as const) {
    const settle = Reflect.get(Channel.prototype, verb) as Settle;
    Reflect.set(Channel.prototype, verb, function settleCounted(this: object, ...args: Parameters<Settle>) {
      const begun = steps.begin(`${verb} ${nameOf(args[0])}`);
      Reflect.apply(settle, this, args);
      onceFlushed(this, () => begun.done());
    });
  }
}

/** `publish` before: it has not left. `confirm` before: the broker has it, nobody knows. `confirm` after: it is known. */
function countConfirmed(steps: Steps, prototype: object): void {
  const publish = Reflect.get(prototype, "publish") as Publish;
  Reflect.set(prototype, "publish", function publishCounted(this: object, ...args: Parameters<Publish>) {
    const [exchange, routingKey, body, options, confirmed] = args;
    const name = options?.type ?? typeOf(body);
    steps.begin(`publish ${name}`);
    const told = (error: unknown): void => {
      if (error !== null || confirmed === undefined) return confirmed?.(error);
      const begun = steps.begin(`confirm ${name}`);
      confirmed(null);
      begun.done();
    };
    return Reflect.apply(publish, this, [exchange, routingKey, body, options, told]);
  });
}

function nameOf({ fields, properties }: Message): string {
  return typeof properties.type === "string" ? properties.type : `${fields.exchange}/foreign`;
}

function typeOf(body: Buffer): string {
  return /"type":"([^"]+)"/.exec(body.toString("utf8", 0, 2_000))?.[1] ?? "";
}

/** Runs `then` when what was written on the channel's connection has been handed to the system. */
function onceFlushed(channel: object, then: () => void, turnsMax = 50): void {
  const connection: unknown = Reflect.get(channel, "connection");
  const stream =
    typeof connection === "object" && connection !== null ? Reflect.get(connection, "stream") : undefined;
  const look = (turn: number): void => {
    const waiting = (stream as Socket | undefined)?.writableLength ?? 0;
    if (turn >= 2 && (waiting === 0 || turn >= turnsMax)) then();
    else setImmediate(() => look(turn + 1));
  };
  look(0);
}
