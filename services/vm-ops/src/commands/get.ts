import type { CommandDetail } from "@muster/contracts/commands";
import { MusterError } from "@muster/contracts/errors";
import type { RequestContext } from "@muster/broker/broker";
import type { Database } from "@muster/database/database";
import { callerOf } from "../caller.ts";
import { readDetail } from "./store-read.ts";

export async function getCommand(
  database: Pick<Database, "transaction">,
  commandId: string,
  context: RequestContext,
): Promise<CommandDetail> {
  const { tenant_id } = callerOf(context, "member");
  const detail = await database.transaction(
    { tenants: [tenant_id] },
    (tx) => readDetail(tx, tenant_id, commandId),
    { readOnly: true },
  );
  if (detail === undefined) throw new MusterError("COMMAND_NOT_FOUND");
  return detail;
}
