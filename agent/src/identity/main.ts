import { parseArgs } from "node:util";
import { MusterError } from "@muster/contracts/errors";
import { pair } from "./pair.ts";

const usage = `Usage: muster-agent pair --gateway URL [--code CODE] [--home FOLDER]

Pairs this host's agent with Muster. The code comes from POST /api/v1/agents/pairing-codes, works once and for ten
minutes; it may also stand in MUSTER_PAIRING_CODE. The home is MUSTER_AGENT_HOME or /var/lib/muster-agent. The agent's
private key is made here and never leaves the home.`;

const exitUsage = 64;

function argumentsOf(argv: readonly string[], env: NodeJS.ProcessEnv) {
  const text = { type: "string" } as const;
  const { values } = parseArgs({ args: [...argv], options: { gateway: text, code: text, home: text } });
  const { gateway: gatewayUrl, code = env["MUSTER_PAIRING_CODE"] } = values;
  const home = values.home ?? env["MUSTER_AGENT_HOME"] ?? "/var/lib/muster-agent";
  if (gatewayUrl === undefined) throw new TypeError("--gateway is missing");
  if (!/^https?:$/.test(new URL(gatewayUrl).protocol))
    throw new TypeError("--gateway must be an http or https URL");
  if (code === undefined || code === "")
    throw new TypeError("--code is missing, and MUSTER_PAIRING_CODE is not set");
  return { gatewayUrl, code, home };
}

function given() {
  try {
    return argumentsOf(process.argv.slice(2), process.env);
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n\n${usage}\n`);
    process.exit(exitUsage);
  }
}

const options = given();
try {
  const { identity, vmUuids, movedJournal } = await pair(options);
  const { agent_id, tenant_id, epoch } = identity;
  if (movedJournal !== undefined)
    process.stdout.write(`the journal of another agent was moved to ${movedJournal}\n`);
  process.stdout.write(
    `paired: agent ${agent_id} of tenant ${tenant_id}, epoch ${epoch}, for ${vmUuids.length} VM(s)\n` +
      `identity in ${options.home}; start it with MUSTER_AGENT_HOME=${options.home} muster-agent\n`,
  );
} catch (error) {
  const text =
    error instanceof MusterError
      ? `${error.code}: ${error.message}`
      : error instanceof Error
        ? error.message
        : String(error);
  process.stderr.write(`not paired: ${text}\n`);
  process.exitCode = 1;
}
