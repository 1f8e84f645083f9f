import { planTopology, sentenceOf } from "@muster/broker/topology-apply";
import { declareTopology, declaredTopology } from "../run/topology.ts";
import { chosenFolder } from "../run/folder.ts";
import { readRunFile } from "../run/run-file.ts";
import { managementUrlFor } from "../servers/external.ts";

const usage = `Usage: ./scripts/topology plan | apply

  plan    show how the live broker differs from what is declared; exit 1 when it does
  apply   make what is declared exist; nothing is ever deleted

The broker is the one of ./scripts/run, or AMQP_URL with MUSTER_MANAGEMENT_URL.
`;

function target(env: NodeJS.ProcessEnv): { amqpUrl: string; managementUrl: string } {
  const amqpUrl = env["AMQP_URL"];
  if (amqpUrl) return { amqpUrl, managementUrl: managementUrlFor(amqpUrl, env["MUSTER_MANAGEMENT_URL"]) };
  const run = readRunFile(chosenFolder(env).runFile);
  if (run === undefined) throw new Error("no broker: start ./scripts/run first, or set AMQP_URL");
  return { amqpUrl: run.amqp_url, managementUrl: run.management_url };
}

/** Answers the exit code: 0 when live equals declared. */
export async function main(args: readonly string[], env: NodeJS.ProcessEnv): Promise<number> {
  const [verb, ...rest] = args;
  if (rest.length > 0 || (verb !== "plan" && verb !== "apply")) {
    process.stdout.write(usage);
    return verb === "--help" || verb === "-h" ? 0 : 2;
  }
  const broker = target(env);
  const before = await planTopology(declaredTopology(env), broker);
  for (const difference of before) process.stdout.write(`${sentenceOf(difference)}\n`);
  if (before.length === 0) process.stdout.write("the live topology is as declared\n");
  if (verb === "plan") return before.length === 0 ? 0 : 1;
  await declareTopology(broker, env, new AbortController().signal);
  if (before.length > 0) process.stdout.write(`applied: ${before.length} differences mended\n`);
  return 0;
}
