import type { EventContract, ReportContract, RequestContract, Subscription } from "./define.ts";
import { commonRequestCodes } from "./define.ts";
import { cloudEventsContentType, envelope, mirroredAttributes, replyType } from "./envelope.ts";
import { errorCodes, wireError } from "./errors.ts";
import { mesh } from "./mesh.ts";
import { wireSchemaOf, type JsonSchema } from "./schema.ts";
import { agentsExchange, requestsExchange } from "./topology.ts";

type Document = Record<string, unknown>;

/** AMQP channel binding 0.3.0: how a third party declares or finds what it publishes to and consumes from. */
const exchangeBinding = (name: string): Document => ({
  amqp: {
    is: "routingKey",
    exchange: { name, type: "topic", durable: true, autoDelete: false, vhost: "/" },
    bindingVersion: "0.3.0",
  },
});

const queueBinding = (name: string): Document => ({
  amqp: {
    is: "queue",
    queue: { name, durable: true, exclusive: false, autoDelete: false, vhost: "/" },
    bindingVersion: "0.3.0",
  },
});

const componentKey = (name: string): string => name.replaceAll(".", "_");
const messageRef = (name: string): Document => ({ $ref: `#/components/messages/${componentKey(name)}` });
const channelMessage = (channel: string, name: string): Document => ({
  $ref: `#/channels/${channel}/messages/${componentKey(name)}`,
});

/** The whole mesh as an AsyncAPI 3.0 document: enough to take part with any AMQP 0-9-1 client. */
export function asyncapiOf(version: string): Document {
  const channels: Record<string, Document> = {};
  const operations: Record<string, Document> = {};
  const messages: Record<string, Document> = {};

  for (const [owner, events] of Object.entries(mesh.events)) {
    addEvents(owner, Object.values(events), { channels, operations, messages });
  }
  for (const [owner, requests] of Object.entries(mesh.requests)) {
    addRequests(owner, Object.values(requests), { channels, operations, messages });
  }
  for (const [queue, reports] of Object.entries(mesh.reports)) {
    addReports(queue, Object.values(reports), { channels, operations, messages });
  }
  addDoorbell({ channels, operations, messages });
  for (const subscription of mesh.subscriptions) addSubscription(subscription, { channels, operations });

  return {
    asyncapi: "3.0.0",
    info: {
      title: "Muster mesh",
      version,
      description: introduction,
    },
    defaultContentType: cloudEventsContentType,
    servers: {
      broker: {
        host: "127.0.0.1:5672",
        protocol: "amqp",
        protocolVersion: "0.9.1",
        description: "RabbitMQ 3.10 to 4.x; the URL is `amqp_url` in .muster/run.json.",
      },
    },
    channels,
    operations,
    components: {
      messages,
      schemas: { envelope: wireSchemaOf(envelope), error: wireSchemaOf(wireError) },
    },
  };
}

const introduction = `Every message is a CloudEvent 1.0 in structured JSON mode: content type
\`${cloudEventsContentType}\`, the envelope with \`data\` as the body. The AMQP properties carry
\`message_id\` = \`id\`, \`type\`, \`timestamp\` in seconds, \`delivery_mode\` 2 for what must survive. Attributes are
mirrored as headers \`cloudEvents_<name>\`; on input \`cloudEvents:\` and \`ce-\` are understood too, and binary
mode (attributes as headers, the body is \`data\`).

Who sent a message is what the broker vouches for: set the AMQP property \`user_id\` to the name that the connection
logs in by, on every message; RabbitMQ refuses any other (406). A service logs in as \`muster-<service>\`, an agent as
\`agent-<agent id>\`, optionally with \`-<number>\`, both optionally with \`@\` and a place. A request is answered to the
services that it names, a report to the agent in its routing key, an event or doorbell is taken from its owner
(and from reliability, which replays dead letters), a reply from the owner of the request. What else comes, or comes
without \`user_id\`, is refused as \`FORBIDDEN\`, counted, and dead-lettered where nobody waits for an answer.

Events: bind a queue of your own to the owner's topic exchange with the message type as routing key (wildcards
\`*\` and \`#\` as usual). A message may come more than once with the same \`id\`: keep the ids that you have handled.

Requests: consume \`amq.rabbitmq.reply-to\` without acknowledgement, then publish on the same channel to the
exchange \`${requestsExchange}\` with the message type as routing key, \`reply_to\` = \`amq.rabbitmq.reply-to\` and
\`timeoutms\` in the envelope. The reply's \`causationid\` is the request's \`id\`; its data is \`{"ok":true,"result":…}\` or
\`{"ok":false,"error":{"code","message","details"}}\`. Requests that act for someone carry in \`identity\` a
token of the asking service's for that one request: a JWT of type \`muster-mesh+jwt\`, signed with EdDSA by a key that
the asker has registered by \`auth.mesh-key.register.v1\`, with \`iss\` \`muster:<asker>\`, \`aud\` \`muster:<owner>\`, \`req\` the
message type, and \`sub\`, \`tenant_id\`, \`roles\`, \`permissions\`, \`iat\`, \`nbf\`, \`exp\`, \`jti\`. No other is taken.

Publish with confirms and \`mandatory\`: only a confirmed message that was not returned is in a queue.`;

interface Parts {
  readonly channels: Record<string, Document>;
  readonly operations: Record<string, Document>;
  readonly messages: Record<string, Document>;
}

function messageOf(name: string, summary: string, data: JsonSchema): Document {
  return {
    name,
    title: name,
    summary,
    contentType: cloudEventsContentType,
    headers: {
      type: "object",
      properties: Object.fromEntries(
        mirroredAttributes.map((attribute) => [`cloudEvents_${attribute}`, { type: "string" }]),
      ),
    },
    payload: {
      allOf: [
        { $ref: "#/components/schemas/envelope" },
        { type: "object", required: ["data"], properties: { type: { const: name }, data } },
      ],
    },
    bindings: { amqp: { contentEncoding: "utf-8", messageType: name, bindingVersion: "0.3.0" } },
  };
}

function addEvents(owner: string, events: readonly EventContract[], parts: Parts): void {
  for (const event of events) {
    const key = componentKey(event.name);
    const exchange = `muster.${owner}.events`;
    parts.messages[key] = messageOf(event.name, event.summary, wireSchemaOf(event.payload));
    parts.channels[key] = {
      address: event.name,
      description: `Topic exchange \`${exchange}\`, routing key \`${event.name}\`.`,
      messages: { [key]: messageRef(event.name) },
      bindings: exchangeBinding(exchange),
    };
    parts.operations[`publish_${key}`] = {
      action: "send",
      summary: event.summary,
      channel: { $ref: `#/channels/${key}` },
      messages: [channelMessage(key, event.name)],
      bindings: { amqp: { deliveryMode: 2, mandatory: !event.external, bindingVersion: "0.3.0" } },
    };
  }
}

function addRequests(owner: string, requests: readonly RequestContract[], parts: Parts): void {
  const channel = `${componentKey(owner)}_requests`;
  const queue = `${owner}.requests`;
  const carried: Record<string, Document> = {};
  parts.channels[channel] = {
    address: queue,
    description: `Quorum queue \`${queue}\`, reached through the topic exchange \`${requestsExchange}\` by the message type.`,
    messages: carried,
    bindings: queueBinding(queue),
  };
  for (const request of requests) addRequest(channel, request, carried, parts);
}

const askedBy = (request: RequestContract | ReportContract): string =>
  request.kind === "request"
    ? `Asked by ${request.callers.join(", ")}; the broker and the owner refuse others. `
    : "";

function addRequest(
  channel: string,
  request: RequestContract | ReportContract,
  carried: Record<string, Document>,
  parts: Parts,
): void {
  const key = componentKey(request.name);
  const reply = replyType(request.name);
  const replyKey = componentKey(reply);
  parts.messages[key] = messageOf(request.name, request.summary, wireSchemaOf(request.payload));
  parts.messages[replyKey] = messageOf(reply, `Answer to ${request.name}.`, {
    oneOf: [
      {
        type: "object",
        required: ["ok", "result"],
        properties: { ok: { const: true }, result: wireSchemaOf(request.reply) },
      },
      {
        type: "object",
        required: ["ok", "error"],
        properties: { ok: { const: false }, error: { $ref: "#/components/schemas/error" } },
      },
    ],
  });
  carried[key] = messageRef(request.name);
  const codes = [...request.codes, ...commonRequestCodes];
  parts.channels[`${key}_reply`] = {
    address: null,
    description: "Direct reply-to, on the channel that asked.",
    messages: { [replyKey]: messageRef(reply) },
  };
  parts.operations[`answer_${key}`] = {
    action: "receive",
    summary: request.summary,
    description: `${askedBy(request)}Answers within ${request.timeoutMs} ms. Codes: ${codes
      .map((code) => `\`${code}\` (${errorCodes[code].retriable ? "retriable" : "final"})`)
      .join(", ")}.`,
    channel: { $ref: `#/channels/${channel}` },
    messages: [channelMessage(channel, request.name)],
    reply: {
      address: { location: "$message.header#/reply_to" },
      channel: { $ref: `#/channels/${key}_reply` },
      messages: [channelMessage(`${key}_reply`, reply)],
    },
  };
}

function addReports(queue: string, reports: readonly ReportContract[], parts: Parts): void {
  for (const report of reports) {
    const channel = `agents_${report.report}`;
    const carried: Record<string, Document> = {};
    parts.channels[channel] = {
      address: `agents.{tenantId}.{agentId}.${report.report}`,
      description: `Topic exchange \`${agentsExchange}\`; consumed from queue \`${queue}\`.`,
      parameters: {
        tenantId: { description: "The agent's tenant; the broker lets an agent use its own alone." },
        agentId: { description: "The agent's id, a UUID." },
      },
      messages: carried,
      bindings: exchangeBinding(agentsExchange),
    };
    addRequest(channel, report, carried, parts);
  }
}

function addDoorbell(parts: Parts): void {
  const doorbell = mesh.doorbells.vmCommandDoorbell;
  const key = componentKey(doorbell.name);
  parts.messages[key] = messageOf(doorbell.name, doorbell.summary, wireSchemaOf(doorbell.payload));
  parts.channels.vm_commands = {
    address: "vm.{tenantId}.{vmUuid}.commands",
    description:
      "One durable queue per VM with a single active consumer, reached through the default exchange.",
    parameters: { tenantId: { description: "The VM's tenant." }, vmUuid: { description: "The VM." } },
    messages: { [key]: messageRef(doorbell.name) },
    bindings: queueBinding("vm.{tenantId}.{vmUuid}.commands"),
  };
  parts.operations.ring_vm = {
    action: "send",
    summary: doorbell.summary,
    channel: { $ref: "#/channels/vm_commands" },
    messages: [channelMessage("vm_commands", doorbell.name)],
    bindings: { amqp: { deliveryMode: 2, mandatory: true, bindingVersion: "0.3.0" } },
  };
}

function addSubscription(subscription: Subscription, parts: Omit<Parts, "messages">): void {
  const queue = `${subscription.service}.${subscription.name}`;
  const channel = `subscription_${componentKey(queue)}`;
  const events = Object.values(subscription.events);
  parts.channels[channel] = {
    address: queue,
    description: `Quorum queue \`${queue}\`: ${subscription.summary}`,
    messages: Object.fromEntries(events.map((event) => [componentKey(event.name), messageRef(event.name)])),
    bindings: queueBinding(queue),
  };
  parts.operations[`consume_${componentKey(queue)}`] = {
    action: "receive",
    summary: subscription.summary,
    channel: { $ref: `#/channels/${channel}` },
    messages: events.map((event) => channelMessage(channel, event.name)),
  };
}
