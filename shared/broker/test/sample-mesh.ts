import {
  defineBatchRequest,
  defineDoorbell,
  defineEvent,
  defineReport,
  defineRequest,
  defineSubscription,
} from "@muster/contracts/define";
import type { Mesh } from "@muster/contracts/topology";
import { z } from "zod";

const counted = z.object({ n: z.number().int() });

export const moved = defineEvent({
  name: "vm-ops.crate.moved.v1",
  summary: "A crate moved.",
  owner: "vm-ops",
  payload: counted,
});
export const broke = defineEvent({
  name: "vm-ops.crate.broke.v1",
  summary: "A crate broke.",
  owner: "vm-ops",
  payload: counted,
});
/** Declared but never part of the mesh: nobody binds it. */
export const unheard = defineEvent({
  name: "vm-ops.crate.unheard.v1",
  summary: "Nobody hears it.",
  owner: "vm-ops",
  payload: counted,
});
export const lost = defineEvent({
  name: "auth.key.lost.v1",
  summary: "No exchange carries it.",
  owner: "auth",
  payload: counted,
});

export const crates = defineSubscription({
  service: "reliability",
  name: "crates",
  summary: "What becomes of crates.",
  events: { moved, broke },
  retry: { tiers: ["1s"] },
});

export const double = defineRequest({
  name: "vm-ops.crate.double.v1",
  summary: "Doubles.",
  callers: ["gateway", "vm-ops"],
  owner: "vm-ops",
  payload: counted,
  reply: z.object({ doubled: z.number() }),
  codes: ["VM_NOT_FOUND"],
  timeoutMs: 2_000,
  identity: "none",
});
export const whoAmI = defineRequest({
  name: "vm-ops.crate.who.v1",
  summary: "Answers who asks.",
  callers: ["gateway", "vm-ops"],
  owner: "vm-ops",
  payload: z.object({}),
  reply: z.object({ subject: z.string(), tenant: z.string() }),
  codes: [],
  timeoutMs: 2_000,
});
export const square = defineBatchRequest({
  name: "vm-ops.crate.square.v1",
  summary: "Squares many at once.",
  callers: ["gateway", "vm-ops"],
  owner: "vm-ops",
  payload: counted,
  reply: z.object({ squared: z.number() }),
  codes: ["VM_NOT_FOUND"],
  timeoutMs: 5_000,
  identity: "none",
  batch: { sizeMax: 20, waitMs: 20 },
});
export const vmOpsRequests = { double, whoAmI, square };
/** A request of a newer asker, which this owner does not know. */
export const unknown = defineRequest({
  name: "vm-ops.crate.fold.v1",
  summary: "Folds.",
  callers: ["gateway", "vm-ops"],
  owner: "vm-ops",
  payload: z.object({}),
  reply: z.object({}),
  codes: [],
  timeoutMs: 2_000,
  identity: "none",
});
export const nobody = defineRequest({
  name: "auth.key.ask.v1",
  summary: "Its owner is not there.",
  callers: ["gateway", "vm-ops"],
  owner: "auth",
  payload: z.object({}),
  reply: z.object({}),
  codes: [],
  timeoutMs: 2_000,
  identity: "none",
});

export const hello = defineReport({
  name: "vm-ops.agent.hello.v1",
  summary: "An agent greets.",
  owner: "vm-ops",
  report: "hello",
  payload: counted,
  reply: z.object({ tenant: z.string(), agent: z.string(), n: z.number() }),
  codes: ["AGENT_SUPERSEDED"],
  timeoutMs: 2_000,
  batch: { sizeMax: 10, waitMs: 5 },
});

export const bell = defineDoorbell({
  name: "vm-ops.vm.bell.v1",
  summary: "Rings.",
  owner: "vm-ops",
  payload: counted,
});

export const sampleMesh: Mesh = {
  events: [moved, broke],
  requests: { "vm-ops": vmOpsRequests },
  reports: [{ service: "vm-ops", queue: "vm-ops.agents", reports: { hello } }],
  hearings: [],
  subscriptions: [crates],
  doorbells: [bell],
  vmQueues: { type: "quorum", deliveryLimit: 2, lengthMax: 100 },
};
