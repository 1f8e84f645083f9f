import { createSign, createVerify, generateKeyPairSync, randomUUID } from "node:crypto";
import { once } from "node:events";
import { connect } from "amqplib";
import express from "express";
import { z } from "zod";
import { serveParent } from "../harness/child.ts";
import { requestsQueue } from "./dispatcher.ts";

/** Bare Express before the raw pipeline: a body held against zod, a token verified once and then known, one request over the mesh. */
const body = z.strictObject({ vm: z.number().int().min(0), payload: z.record(z.string(), z.unknown()) });
const claims = z.object({ sub: z.string(), exp: z.number() });

const keys = generateKeyPairSync("ec", { namedCurve: "P-256" });
const base64 = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString("base64url");
const unsigned = `${base64({ alg: "ES256", typ: "at+jwt" })}.${base64({ sub: "user:bench", exp: Math.floor(Date.now() / 1_000) + 3_600 })}`;
const dsa = { dsaEncoding: "ieee-p1363" } as const;
const signature = createSign("sha256")
  .update(unsigned)
  .sign({ key: keys.privateKey, ...dsa });
const token = `${unsigned}.${signature.toString("base64url")}`;

const verified = new Map<string, z.infer<typeof claims>>();

function callerOf(header: string | undefined): z.infer<typeof claims> | undefined {
  if (header === undefined || !header.startsWith("Bearer ")) return undefined;
  const known = verified.get(header);
  if (known !== undefined) return known.exp * 1_000 > Date.now() ? known : undefined;
  const [head = "", payload = "", sign = ""] = header.slice(7).split(".");
  const signed = Buffer.from(sign, "base64url");
  // P-256: other lengths make the verifier throw
  if (signed.length !== 64) return undefined;
  const good = createVerify("sha256")
    .update(`${head}.${payload}`)
    .verify({ key: keys.publicKey, ...dsa }, signed);
  if (!good) return undefined;
  const caller = claims.parse(JSON.parse(Buffer.from(payload, "base64url").toString()));
  verified.set(header, caller);
  return caller;
}

const model = await connect(process.env.MUSTER_BENCH_AMQP_URL ?? "", { noDelay: true });
const channel = await model.createChannel();
const waiting = new Map<string, (reply: string) => void>();
await channel.consume(
  "amq.rabbitmq.reply-to",
  (message) => {
    const id = String(message?.properties.correlationId);
    waiting.get(id)?.(message?.content.toString() ?? "");
    waiting.delete(id);
  },
  { noAck: true },
);

function ask(request: unknown): Promise<string> {
  return new Promise((resolve) => {
    const correlationId = randomUUID();
    waiting.set(correlationId, resolve);
    channel.sendToQueue(requestsQueue, Buffer.from(JSON.stringify(request)), {
      correlationId,
      replyTo: "amq.rabbitmq.reply-to",
      persistent: true,
    });
  });
}

const app = express();
app.use(express.json());
app.post("/commands", async (request, response) => {
  if (callerOf(request.headers.authorization) === undefined) {
    response.status(401).json({ success: false });
    return;
  }
  const parsed = body.safeParse(request.body);
  if (!parsed.success) {
    response.status(422).json({ success: false });
    return;
  }
  const reply = JSON.parse(await ask(parsed.data)) as unknown;
  response.status(202).json({ success: true, data: { command: reply } });
});
const server = app.listen(0, "127.0.0.1");
await once(server, "listening");
const address = server.address();
const port = typeof address === "object" && address !== null ? address.port : 0;
serveParent({ where: () => Promise.resolve({ port, token }) });
