export type Verb = "run" | "stop" | "reset" | "help";

export interface RunOptions {
  readonly verb: Verb;
  readonly detach: boolean;
}

export const usage = `Usage: ./scripts/run [--detach | --stop | --reset | --help]

Brings Muster up on this machine, with RabbitMQ, PostgreSQL and one agent, and runs a real command on it.

  (none)     stay in the foreground with a status line; Ctrl-C drains and stops everything, a second one cuts
  --detach   return when the system is ready; .muster/run.json then says how to reach it
  --stop     stop the system of this checkout, whatever state it is in; data are kept
  --reset    stop it and remove its data
  --help     this text

Settings from the environment:
  AMQP_URL, DATABASE_URL     use these servers instead of private ones
  MUSTER_MANAGEMENT_URL      RabbitMQ's management API, where AMQP_URL names an external broker
  MUSTER_GATEWAY_PORT        the gateway's port; without it 8080, or the next free one
  MUSTER_RUN_FOLDER          where data, logs and run.json go; without it .muster of this checkout
  MUSTER_*                   any other setting is handed on to the services
`;

/** What the arguments ask for; throws with the remedy when they make no sense. */
export function parseRunOptions(args: readonly string[]): RunOptions {
  const known = ["--detach", "--stop", "--reset", "--help", "-h"];
  const unknown = args.find((argument) => !known.includes(argument));
  if (unknown !== undefined) throw new Error(`unknown option ${unknown}; see ./scripts/run --help`);
  const verbs: [string, Verb][] = [
    ["--help", "help"],
    ["-h", "help"],
    ["--reset", "reset"],
    ["--stop", "stop"],
  ];
  const asked = verbs.filter(([option]) => args.includes(option)).map(([, verb]) => verb);
  const verb = asked[0] ?? "run";
  const detach = args.includes("--detach");
  if (verb !== "help" && (new Set(asked).size > 1 || (detach && verb !== "run"))) {
    throw new Error("--detach, --stop and --reset exclude each other; see ./scripts/run --help");
  }
  return { verb, detach };
}
