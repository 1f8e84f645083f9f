import { actionName } from "@muster/contracts/actions";
import { z } from "zod";
import { ProcessDriver } from "../src/drivers/process/process-driver.ts";

/** An agent's side of a run, to be killed: starts one command, says so, follows it. Arguments: home, work as JSON. */
const work = z
  .object({
    handle: z.string(),
    commandId: z.string(),
    action: actionName,
    params: z.record(z.string(), z.unknown()),
    timeoutMs: z.number(),
  })
  .parse(JSON.parse(process.argv[3] ?? ""));
const keepAlive = setInterval(() => undefined, 1_000);
const driver = await ProcessDriver.open({ home: process.argv[2] ?? "", stopGraceMs: 500 });
const running = await driver.start(work);
process.stdout.write("started\n");
await running.outcome;
process.stdout.write("ended\n");
clearInterval(keepAlive);
