import http from "node:http";
import { syncBuiltinESMExports } from "node:module";
import { countCommits } from "./of-database.ts";
import { countChildren, countFiles } from "./of-files.ts";
import { countJournal } from "./of-journal.ts";
import { countMessages } from "./of-broker.ts";
import { order as orderSchema, orderVariable, type Order } from "./plan.ts";
import { Steps, watchSockets } from "./steps.ts";

/*
 * `node --import <this> <entry>`: counts the durable steps of one process of the system, whichever it is, and does at
 * one of them what a test has planned. The process itself knows nothing of it.
 */

const entry = process.argv[1] ?? "";
const repository = new URL("../../../../", import.meta.url).pathname;

function answersCounted(steps: Steps): void {
  const end = Reflect.get(http.ServerResponse.prototype, "end") as (...args: unknown[]) => unknown;
  Reflect.set(
    http.ServerResponse.prototype,
    "end",
    function endCounted(this: http.ServerResponse, ...args: unknown[]): unknown {
      const { method = "", url = "" } = this.req;
      // Those of the internal server change nothing.
      if (!url.startsWith("/api/") || method === "GET") return Reflect.apply(end, this, args);
      const path = url.replace(/[0-9a-f]{8}-[0-9a-f-]{27}/g, "{id}").split("?")[0] ?? "";
      const begun = steps.begin(`answer ${method} ${path} ${this.statusCode}`);
      const result = Reflect.apply(end, this, args);
      begun.done();
      return result;
    },
  );
}

/** Hands the preload on to the supervisors of an agent, and to nothing else. */
function handOn(order: Order): (args: unknown[]) => unknown[] {
  const { supervisors } = order;
  return ([program, args, options]) => {
    const supervises = Array.isArray(args) && args.some((arg) => String(arg).endsWith("/supervisor.js"));
    if (supervisors === null || !supervises || typeof options !== "object" || options === null) {
      return [program, args, options];
    }
    const given: unknown = Reflect.get(options, "env");
    const env = {
      ...(typeof given === "object" ? given : {}),
      NODE_OPTIONS: `--import ${import.meta.url}`,
      [orderVariable]: JSON.stringify({ ...supervisors, supervisors: null }),
    };
    return [program, args, { ...options, env }];
  };
}

function begin(): void {
  const given = process.env[orderVariable];
  if (given === undefined) return;
  const order = orderSchema.parse(JSON.parse(given));
  const supervisor = entry.endsWith("/supervisor.js");
  const steps = new Steps(order, { takePlan: supervisor });
  watchSockets();
  if (!supervisor) countMessages(steps, `${repository}shared/broker/package.json`);
  if (entry.includes("/services/") && !entry.includes("/gateway/")) {
    countCommits(steps, `${repository}shared/database/package.json`);
  }
  if (entry.includes("/gateway/")) answersCounted(steps);
  if (entry.includes("/agent/")) {
    if (!supervisor) countJournal(steps, `${repository}agent/package.json`);
    if (order.folder !== null) countFiles(steps, order.folder);
    countChildren(steps, handOn(order));
  }
  syncBuiltinESMExports();
}

begin();
