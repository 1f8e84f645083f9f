import type { Contract } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import { senderFault, senderOf, type Sender } from "@muster/contracts/senders";
import type { Logger } from "@muster/telemetry/logger";
import { Sparing } from "@muster/telemetry/sparing";
import type { Instruments } from "./instruments.ts";

/** What a message is, to be told and counted. */
interface What {
  readonly kind: Contract["kind"] | "reply";
  readonly name: string;
}

/** What is known of who sent a message. */
export interface Sent {
  /** AMQP's property, which the broker has held against the connection's user. */
  readonly userId: string | undefined;
  readonly messageId: string | undefined;
}

/** Refuses what its sender may not send: counts it, and says so within bounds, without what is in it. */
export class SenderCheck {
  readonly #logger: Logger;
  readonly #instruments: Instruments;
  readonly #lines = new Sparing();

  constructor(logger: Logger, instruments: Instruments) {
    this.#logger = logger;
    this.#instruments = instruments;
  }

  /** Who sent it. Throws FORBIDDEN where nobody is named, nobody of ours, or one who may not send it. */
  refuseForged(what: What, sent: Sent, may: (sender: Sender | undefined) => boolean): Sender {
    const sender = senderOf(sent.userId);
    if (sender !== undefined && may(sender)) return sender;
    this.#tell(what, sent);
    const { userId } = sent;
    const who = userId === undefined ? "a message without user_id" : `${what.name} from ${userId}`;
    throw new MusterError("FORBIDDEN", `${who} is not taken`);
  }

  /** The same, where there is nobody to answer. */
  believes(what: What, sent: Sent, may: (sender: Sender | undefined) => boolean): boolean {
    if (may(senderOf(sent.userId))) return true;
    this.#tell(what, sent);
    return false;
  }

  #tell({ kind, name }: What, { userId, messageId }: Sent): void {
    const reason = senderFault(userId);
    this.#instruments.forged.inc({ kind, reason });
    const heldBack = this.#lines.next(`${kind} ${reason}`);
    if (heldBack === undefined) return;
    const log = { kind, reason, type: name, user_id: userId, message_id: messageId, held_back: heldBack };
    this.#logger.warn(log, "a message was refused: its sender may not send it");
  }
}
