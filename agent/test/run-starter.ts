import { actionName } from "@muster/contracts/actions";
import { resolvedSecrets } from "@muster/contracts/secret-reports";
import { z } from "zod";
import { ProcessDriver } from "../src/drivers/process/process-driver.ts";

/** An agent's side of a run, to be killed: starts one command, says so, follows it. Arguments: home, work as JSON, folder for secrets. */
const work = z
  .object({
    handle: z.string(),
    commandId: z.string(),
    action: actionName,
    params: z.record(z.string(), z.unknown()),
    timeoutMs: z.number(),
    secrets: resolvedSecrets.optional(),
  })
  .parse(JSON.parse(process.argv[3] ?? ""));
const keepAlive = setInterval(() => undefined, 1_000);
const [, , home = "", , secretsDir] = process.argv;
const driver = await ProcessDriver.open({ home, stopGraceMs: 500, secretsDir });
const { secrets, ...rest } = work;
const running = await driver.start(secrets === undefined ? rest : { ...rest, secrets });
process.stdout.write("started\n");
await running.outcome;
process.stdout.write("ended\n");
clearInterval(keepAlive);
