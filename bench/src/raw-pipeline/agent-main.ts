import { connect, type ConsumeMessage } from "amqplib";
import { serveParent } from "../harness/child.ts";
import { resultsQueue, vmQueueOf } from "./dispatcher.ts";

/** The other half: consumes every VM's queue; claim and result are confirmed by the broker before the command is acknowledged. */
const prefetch = 50;
const vms = Number(process.env.MUSTER_BENCH_VMS);
const model = await connect(process.env.MUSTER_BENCH_AMQP_URL ?? "", { noDelay: true });
const reports = await model.createConfirmChannel();
const commands = await model.createChannel();
await commands.prefetch(prefetch);

function report(kind: "claim" | "result", id: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const body = Buffer.from(JSON.stringify({ kind, id, output: "ok" }));
    reports.publish("", resultsQueue, body, { persistent: true, messageId: `${id}.${kind}` }, (error) =>
      error === null ? resolve() : reject(new Error("not confirmed")),
    );
  });
}

async function work(message: ConsumeMessage): Promise<void> {
  const id = String(message.properties.messageId);
  JSON.parse(message.content.toString());
  await Promise.all([report("claim", id), report("result", id)]);
  commands.ack(message);
}

for (let vm = 0; vm < vms; vm++) {
  await commands.consume(vmQueueOf(vm), (message) => {
    if (message !== null) void work(message);
  });
}
serveParent({});
