import { agentClaim, itemsPerReportMax } from "@muster/contracts/agents";
import type { PayloadOf, ReplyOf } from "@muster/contracts/define";
import { Batcher, inOrder } from "../batching/batcher.ts";
import type { Session } from "../session/session.ts";

export type ClaimItem = PayloadOf<typeof agentClaim>["claims"][number];
type ClaimOutcome = ReplyOf<typeof agentClaim>["outcomes"][number];
export type Grant = Extract<ClaimOutcome, { outcome: "granted" }>;
export type Denial = Extract<ClaimOutcome, { outcome: "denied" }>;

/** An answer, and when the claim was sent by the monotonic clock: the lease counts from there. */
export type ClaimAnswer = { readonly answer: Grant | Denial; readonly sentAtMs: number };

const claimBytes = 512;
const claimMessagesMax = 4;

/** Denials that end the attempt here; the others say "later". */
export function isFinal(denial: Pick<Denial, "reason">): boolean {
  switch (denial.reason) {
    case "superseded":
    case "cancelled":
    case "expired":
    case "wrong_epoch":
    case "gate_revoked":
      return true;
    case "vm_busy":
    case "paused":
    case "retry":
      return false;
  }
}

/** Claims of many VMs in one message. */
export class Claims {
  readonly #batcher: Batcher<ClaimItem, ClaimAnswer>;

  constructor(session: Pick<Session, "report">) {
    this.#batcher = new Batcher({
      sizeMax: itemsPerReportMax,
      bytesMax: itemsPerReportMax * claimBytes,
      inFlightMax: claimMessagesMax,
      bytesOf: () => claimBytes,
      send: async (claims) => {
        let sentAtMs = 0;
        const { outcomes } = await session.report(agentClaim, (ref) => {
          sentAtMs = performance.now();
          return { session: ref, claims: [...claims] };
        });
        return inOrder(claims, outcomes).map((answer) =>
          answer === undefined ? undefined : { answer, sentAtMs },
        );
      },
    });
  }

  /** Throws when nobody answered; the same nonce may then be sent again. */
  claim(item: ClaimItem): Promise<ClaimAnswer> {
    return this.#batcher.add(item);
  }
}
