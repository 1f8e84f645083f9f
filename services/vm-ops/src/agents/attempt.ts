import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import { referencesOf } from "@muster/contracts/secret-references";
import type { vmOpsRequests } from "@muster/contracts/vm-ops";
import type { Database } from "@muster/database/database";
import { paramsOf } from "../commands/row.ts";
import type { ClaimTokens } from "./claim-tokens.ts";
import { findRunning } from "./store-attempt.ts";

type Contract = (typeof vmOpsRequests)["getAttempt"];

/**
 * What an attempt may know, for whoever gives it something for its run. Throws ATTEMPT_NOT_RUNNING, whatever it is that is
 * wrong: who asks with a guess learns nothing.
 */
export async function getAttempt(
  { database, tokens }: { readonly database: Pick<Database, "transaction">; readonly tokens: ClaimTokens },
  o: PayloadOf<Contract>,
): Promise<ReplyInputOf<Contract>> {
  const { tenant_id: tenantId, agent_id: agentId, command_id: commandId, attempt } = o;
  const nonce = tokens.nonceOf(o.token, commandId, attempt);
  const found =
    nonce === undefined
      ? undefined
      : await database.transaction(
          { tenants: [tenantId] },
          (tx) => findRunning(tx, { tenantId, agentId, commandId, attempt }),
          { readOnly: true },
        );
  if (found === undefined || found.claim_nonce !== nonce) throw new MusterError("ATTEMPT_NOT_RUNNING");
  return {
    vm_uuid: found.vm_uuid,
    vm_labels: found.labels,
    project_id: found.project_id,
    requested_by: found.requested_by,
    references: referencesOf(paramsOf(found.params)),
    left_ms: found.left_ms,
  };
}
