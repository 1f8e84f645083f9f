import { vmCommandDoorbell, type Doorbell } from "@muster/contracts/agents";
import { faultsOf, MusterError } from "@muster/contracts/errors";
import { readEnvelope, type ReceivedMessage } from "@muster/broker/read-envelope";

/** Reads a doorbell out of a delivery for `vmUuid`; throws MusterError when it is not one. */
export function readBell(message: ReceivedMessage, vmUuid: string): Doorbell {
  const envelope = readEnvelope(message);
  if (envelope.type !== vmCommandDoorbell.name) {
    throw new MusterError(
      "UNSUPPORTED_MESSAGE",
      `a VM's queue carries ${vmCommandDoorbell.name}, not ${envelope.type}`,
    );
  }
  const bell = vmCommandDoorbell.payload.safeParse(envelope.data);
  if (!bell.success) {
    throw new MusterError("CONTRACT_VIOLATION", undefined, {
      details: faultsOf(bell.error),
      cause: bell.error,
    });
  }
  if (bell.data.vm_uuid !== vmUuid) {
    throw new MusterError("CONTRACT_VIOLATION", "the doorbell is for another VM than its queue");
  }
  return bell.data;
}
