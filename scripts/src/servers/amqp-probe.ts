import { connect } from "node:net";
import type { Socket } from "node:net";
import { connect as connectSecurely } from "node:tls";

const protocolHeader = Buffer.from([0x41, 0x4d, 0x51, 0x50, 0, 0, 9, 1]);
const frameEnd = 0xce;

interface Method {
  readonly classId: number;
  readonly methodId: number;
  readonly body: Buffer;
}

function shortString(text: string): Buffer {
  const bytes = Buffer.from(text, "utf8");
  return Buffer.concat([Buffer.from([bytes.length]), bytes]);
}

function longString(bytes: Buffer): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bytes.length);
  return Buffer.concat([length, bytes]);
}

function methodFrame(classId: number, methodId: number, body: Buffer): Buffer {
  const head = Buffer.alloc(11);
  head.writeUInt8(1, 0);
  head.writeUInt32BE(body.length + 4, 3);
  head.writeUInt16BE(classId, 7);
  head.writeUInt16BE(methodId, 9);
  return Buffer.concat([head, body, Buffer.from([frameEnd])]);
}

/** The first whole method frame on channel 0, and what follows it. */
function readMethod(bytes: Buffer): { method: Method; rest: Buffer } | undefined {
  if (bytes.length < 8) return undefined;
  const size = bytes.readUInt32BE(3);
  if (bytes.length < size + 8) return undefined;
  const payload = bytes.subarray(7, 7 + size);
  const method = {
    classId: payload.readUInt16BE(0),
    methodId: payload.readUInt16BE(2),
    body: payload.subarray(4),
  };
  return { method, rest: bytes.subarray(size + 8) };
}

function startOk(user: string, password: string): Buffer {
  const noProperties = Buffer.alloc(4);
  const response = Buffer.from(`\0${user}\0${password}`, "utf8");
  return Buffer.concat([noProperties, shortString("PLAIN"), longString(response), shortString("en_US")]);
}

function tuneOk(tune: Buffer): Buffer {
  const answer = Buffer.from(tune.subarray(0, 8));
  answer.writeUInt16BE(0, 6);
  return answer;
}

function open(vhost: string): Buffer {
  return Buffer.concat([shortString(vhost), shortString(""), Buffer.from([0])]);
}

export interface AmqpAddress {
  readonly secure: boolean;
  readonly host: string;
  readonly port: number;
  readonly user: string;
  readonly password: string;
  readonly vhost: string;
}

/** The parts of an AMQP URL, with the defaults of the AMQP URI specification. */
export function parseAmqpUrl(text: string): AmqpAddress {
  const url = new URL(text);
  if (url.protocol !== "amqp:" && url.protocol !== "amqps:") {
    throw new Error(`an AMQP URL starts with amqp:// or amqps://, not ${url.protocol}//`);
  }
  const secure = url.protocol === "amqps:";
  return {
    secure,
    host: url.hostname === "" ? "127.0.0.1" : url.hostname.replace(/^\[|\]$/g, ""),
    port: url.port === "" ? (secure ? 5671 : 5672) : Number(url.port),
    user: url.username === "" ? "guest" : decodeURIComponent(url.username),
    password: url.password === "" ? "guest" : decodeURIComponent(url.password),
    vhost: url.pathname.length > 1 ? decodeURIComponent(url.pathname.slice(1)) : "/",
  };
}

function answerTo(method: Method, address: AmqpAddress, socket: Socket): "open" | undefined {
  switch (`${method.classId}.${method.methodId}`) {
    case "10.10":
      socket.write(methodFrame(10, 11, startOk(address.user, address.password)));
      return undefined;
    case "10.30":
      socket.write(methodFrame(10, 31, tuneOk(method.body)));
      socket.write(methodFrame(10, 40, open(address.vhost)));
      return undefined;
    case "10.41":
      return "open";
    case "10.50": {
      const length = method.body.readUInt8(2);
      throw new Error(method.body.subarray(3, 3 + length).toString("utf8"));
    }
    default:
      throw new Error(`an unexpected AMQP method ${method.classId}.${method.methodId}`);
  }
}

/** Logs in and opens the virtual host, as a client would, then leaves. Rejects with what the broker or the network said. */
export async function probeAmqp(address: AmqpAddress, timeoutMs: number): Promise<void> {
  const { host, port, secure } = address;
  const socket = secure ? connectSecurely({ host, port, servername: host }) : connect({ host, port });
  try {
    await new Promise<void>((resolve, reject) => {
      let bytes: Buffer = Buffer.alloc(0);
      const timer = setTimeout(() => reject(new Error(`no answer within ${timeoutMs / 1_000} s`)), timeoutMs);
      socket.once("close", () => {
        clearTimeout(timer);
        reject(new Error("the broker closed the connection: wrong user name, password or virtual host"));
      });
      socket.once("error", reject);
      socket.once(secure ? "secureConnect" : "connect", () => socket.write(protocolHeader));
      socket.on("data", (chunk) => {
        bytes = Buffer.concat([bytes, chunk]);
        if (bytes.subarray(0, 4).toString("latin1") === "AMQP")
          return reject(new Error("it does not speak AMQP 0-9-1"));
        try {
          for (let read = readMethod(bytes); read !== undefined; read = readMethod(bytes)) {
            bytes = read.rest;
            if (answerTo(read.method, address, socket) === "open") resolve();
          }
        } catch (error) {
          reject(error instanceof Error ? error : new Error(String(error)));
        }
      });
    });
  } finally {
    socket.destroy();
  }
}
