import { MusterError } from "@muster/contracts/errors";
import { tenantId, uuid } from "@muster/contracts/ids";

type Sent = { readonly context: { readonly tenantId: string; readonly agentId: string } };

/** Agents are known by UUIDs: what another sender says is refused before it can spoil a batch. */
export function fromAgents<I extends Sent, R>(
  handle: (items: readonly I[]) => Promise<readonly (R | MusterError)[]>,
): (items: readonly I[]) => Promise<readonly (R | MusterError)[]> {
  return async (items) => {
    const known = items.filter(isAgent);
    const answers = known.length === 0 ? [] : await handle(known);
    const byItem = new Map(known.map((item, at) => [item, answers[at]]));
    return items.map((item) => byItem.get(item) ?? new MusterError("FORBIDDEN"));
  };
}

const isAgent = ({ context }: Sent): boolean =>
  uuid.safeParse(context.agentId).success && tenantId.safeParse(context.tenantId).success;
