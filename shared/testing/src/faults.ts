import { createServer, connect, type AddressInfo, type Socket } from "node:net";
import { FaultyPipe, type Weather } from "./faulty-pipe.ts";

/** From the client to the server, or back. */
export type Direction = "up" | "down";

/** A TCP link to a broker or a database that can be made to fail in the ways that networks fail. */
export interface FaultyLink {
  /** The target's URL, through the link. */
  readonly url: string;
  /** Connections up at the moment. */
  readonly connected: number;
  /** Destroys every connection (RST where the system sends one); new ones are welcome. */
  cut(): void;
  /** Swallows every byte both ways and keeps the sockets open, until `heal`. */
  blackhole(): void;
  /** Holds every byte, one way or both, until `heal`; none is lost, as in a network that is away for a while. */
  stall(direction?: Direction): void;
  /** Holds every byte for so long. */
  delay(delayMs: number): void;
  /** Lets so many bytes pass in a second, each way of each connection. */
  throttle(bytesPerSecond: number): void;
  /** Refuses new connections until `heal`. */
  refuse(): void;
  heal(): void;
  /** Makes the broker close every open channel, and only those: each gets an acknowledgement of what it never sent. */
  killChannels(): void;
  close(): Promise<void>;
}

const fair = (): Weather => ({ blackhole: false, stalled: false, delayMs: 0, bytesPerSecond: Infinity });

type Weathers = Readonly<Record<Direction, Weather>>;

export async function openFaultyLink(targetUrl: string): Promise<FaultyLink> {
  const target = new URL(targetUrl);
  const links = new Set<Link>();
  const weather: Weathers = { up: fair(), down: fair() };
  let refusing = false;
  const server = createServer((near) => {
    if (refusing) return near.destroy();
    const far = connect(Number(target.port), target.hostname);
    const link = new Link(near, far, weather, target.protocol.startsWith("amqp"));
    links.add(link);
    link.onEnd(() => links.delete(link));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = new URL(targetUrl);
  url.hostname = "127.0.0.1";
  url.port = String((server.address() as AddressInfo).port);
  const cut = (): void => {
    for (const link of links) link.destroy();
  };
  const change = (direction: Direction | undefined, what: Partial<Weather>): void => {
    for (const way of ["up", "down"] as const) {
      if (direction === undefined || direction === way) Object.assign(weather[way], what);
    }
    for (const link of links) link.flow();
  };
  return {
    url: url.href,
    get connected() {
      return links.size;
    },
    cut,
    blackhole: () => change(undefined, { blackhole: true }),
    stall: (direction) => change(direction, { stalled: true }),
    delay: (delayMs) => change(undefined, { delayMs }),
    throttle: (bytesPerSecond) => change(undefined, { bytesPerSecond }),
    refuse: () => {
      refusing = true;
    },
    heal: () => {
      refusing = false;
      change(undefined, fair());
    },
    killChannels: () => {
      for (const link of links) link.killChannels();
    },
    close: () => {
      cut();
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
}

/** One connection, near side to far side; follows the client's AMQP frames so that one can be slipped in between. */
class Link {
  readonly #near: Socket;
  readonly #far: Socket;
  readonly #weather: Weathers;
  readonly #pipes: readonly FaultyPipe[];
  readonly #frames = new FrameBoundaries();
  #killWanted = false;
  #ended = 0;
  #onEnd: () => void = () => undefined;

  constructor(near: Socket, far: Socket, weather: Weathers, speaksAmqp: boolean) {
    this.#near = near;
    this.#far = far;
    this.#weather = weather;
    this.#pipes = [
      new FaultyPipe(near, far, weather.up, (chunk) => {
        if (speaksAmqp) this.#sent(chunk);
      }),
      new FaultyPipe(far, near, weather.down, () => undefined),
    ];
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      one.on("error", () => {});
      one.on("close", () => {
        this.#ended += 1;
        if (this.#ended === 2) this.#onEnd();
        this.#passEnd(other);
      });
    }
  }

  /** A network that is away carries no news of an end either: the other side stays half-open until it is back. */
  #passEnd(to: Socket): void {
    const stalled = to === this.#far ? this.#weather.up.stalled : this.#weather.down.stalled;
    if (stalled || to.destroyed) return;
    for (const pipe of this.#pipes) pipe.end();
    to.destroy();
  }

  #sent(chunk: Buffer): void {
    this.#frames.follow(chunk);
    if (this.#killWanted) this.killChannels();
  }

  flow(): void {
    for (const pipe of this.#pipes) pipe.flow();
    if (this.#near.destroyed) this.#passEnd(this.#far);
    if (this.#far.destroyed) this.#passEnd(this.#near);
  }

  killChannels(): void {
    this.#killWanted = !this.#frames.atBoundary;
    if (this.#killWanted) return;
    for (const channel of this.#frames.channels) this.#far.write(acknowledgementOfNothing(channel));
    this.#frames.channels.clear();
  }

  onEnd(ended: () => void): void {
    this.#onEnd = ended;
  }

  destroy(): void {
    this.#near.resetAndDestroy();
    this.#far.destroy();
  }
}

const protocolHeaderBytes = 8;
const frameHeaderBytes = 7;
const channelOpen = 0x0014_000a;
const channelClose = 0x0014_0028;
const channelCloseOk = 0x0014_0029;

/** Knows where the client's AMQP frames end and which channels it has open. */
class FrameBoundaries {
  readonly channels = new Set<number>();
  #rest = Buffer.alloc(0);
  #headerSeen = false;

  get atBoundary(): boolean {
    return this.#headerSeen && this.#rest.length === 0;
  }

  follow(chunk: Buffer): void {
    let bytes = Buffer.concat([this.#rest, chunk]);
    if (!this.#headerSeen && bytes.length >= protocolHeaderBytes) {
      this.#headerSeen = true;
      bytes = bytes.subarray(protocolHeaderBytes);
    }
    while (this.#headerSeen && bytes.length >= frameHeaderBytes) {
      const end = frameHeaderBytes + bytes.readUInt32BE(3) + 1;
      if (bytes.length < end) break;
      this.#note(bytes.subarray(0, end));
      bytes = bytes.subarray(end);
    }
    this.#rest = Buffer.from(bytes);
  }

  #note(frame: Buffer): void {
    if (frame[0] !== 1 || frame.length < frameHeaderBytes + 4) return;
    const channel = frame.readUInt16BE(1);
    const method = frame.readUInt32BE(frameHeaderBytes);
    if (method === channelOpen) this.channels.add(channel);
    if (method === channelClose || method === channelCloseOk) this.channels.delete(channel);
  }
}

/** basic.ack of a delivery tag that never was: the broker closes the channel with 406. */
function acknowledgementOfNothing(channel: number): Buffer {
  const frame = Buffer.alloc(frameHeaderBytes + 13 + 1);
  frame.writeUInt8(1, 0);
  frame.writeUInt16BE(channel, 1);
  frame.writeUInt32BE(13, 3);
  frame.writeUInt32BE(0x003c_0050, frameHeaderBytes);
  frame.writeBigUInt64BE(2n ** 40n, frameHeaderBytes + 4);
  frame.writeUInt8(0, frameHeaderBytes + 12);
  frame.writeUInt8(0xce, frameHeaderBytes + 13);
  return frame;
}
