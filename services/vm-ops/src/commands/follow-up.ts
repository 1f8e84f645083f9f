import type { RequestContext } from "@muster/broker/broker";
import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import type { vmOpsRequests } from "@muster/contracts/vm-ops";
import { acceptEach } from "./accept.ts";
import type { AcceptParts } from "./accept.ts";
import { readEnd } from "./store-read.ts";
import { validateCommand } from "./validate.ts";

type Contract = (typeof vmOpsRequests)["acceptFollowUp"];

/** With a blank in it, so that no caller's own key is ever the same. */
const keyOf = (key: string): string => `follow-up ${key}`;

/**
 * Accepts it as any command, for the tenant and the principal that are named; the same key again answers with the same command,
 * and with its end once there is one. Throws VALIDATION_FAILED, BACKPRESSURE, VM_…, ACTION_NOT_SUPPORTED, IDEMPOTENCY_KEY_REUSED.
 */
export async function acceptFollowUp(
  parts: AcceptParts,
  payload: PayloadOf<Contract>,
  context: RequestContext,
): Promise<ReplyInputOf<Contract>> {
  const { tenant_id: tenantId, requested_by: requestedBy, idempotency_key } = payload;
  const [answer] = await acceptEach(parts, [payload], ({ command }) => ({
    ...{ tenantId, requestedBy, key: keyOf(idempotency_key), context },
    wanted: validateCommand(command),
  }));
  if (answer === undefined) throw new MusterError("INTERNAL");
  if (answer instanceof MusterError) throw answer;
  const { command, replayed } = answer;
  if (!replayed) return { command, replayed, ended: null };
  const read = { tenants: [tenantId] };
  const ended = await parts.database.transaction(read, (tx) => readEnd(tx, tenantId, command.id), {
    readOnly: true,
  });
  return { command, replayed, ended };
}
