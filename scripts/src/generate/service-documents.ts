import { settings as agent } from "@muster/agent/settings";
import { settings as auth } from "@muster/auth/config";
import { settings as gateway } from "@muster/gateway/config";
import { settings as reliability } from "@muster/reliability/config";
import { settings as secrets } from "@muster/secrets/config";
import { commonSettings } from "@muster/service/known-settings";
import { envExampleOf } from "@muster/service/settings";
import { machineMarkdown } from "@muster/vm-ops/commands/machine-markdown";
import { settings as vmOps } from "@muster/vm-ops/config";
import type { GeneratedFile } from "./mesh-documents.ts";

const statesHead = `# The states of a command

Drawn from \`services/vm-ops/src/commands/machine.ts\`, the only place that decides a transition. Every transition is a
compare-and-set on command, attempt and state by the database's clock, and appends to the command's history in the same
transaction.

`;

/** What is derived from the services themselves: their settings and the state machine. */
export function serviceDocuments(): GeneratedFile[] {
  const services = {
    "every service": commonSettings,
    auth,
    "vm-ops": vmOps,
    reliability,
    secrets,
    gateway,
    agent,
  };
  return [
    { path: ".env.example", content: envExampleOf(services) },
    { path: "docs/command-states.md", content: statesHead + machineMarkdown() },
  ];
}
