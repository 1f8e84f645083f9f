import {
  services,
  type DoorbellContract,
  type EventContract,
  type RequestContract,
  type Service,
} from "./define.ts";

/** Who sent a message, as the broker vouches for it: it takes no `user_id` that is not the connection's user. */
export type Sender =
  | { readonly kind: "service"; readonly service: Service }
  | { readonly kind: "agent"; readonly agentId: string; readonly epoch: number }
  | { readonly kind: "topology" | "warden" };

/**
 * Who logs in at the broker beside the agents: each service, who makes and mends the topology, and who throws out agents that
 * were revoked. The last two send nothing.
 */
export type Login = Service | "topology" | "warden";
export const logins: readonly Login[] = [...services, "topology", "warden"];

/** Takes what died out of the dead letters, and puts it back where it came from. */
export const deadLettersKeeper: Service = "reliability";

/** The login's name at the broker; users belong to the whole broker, so that a place tells those of one vhost from another's. */
export const loginName = (login: Login, place = ""): string => `muster-${login}${at(place)}`;

/** The epoch of its pairing is in it, so that an earlier one's connections are known from the present one's. */
export function agentLoginName(agentId: string, o: { epoch?: number; place?: string } = {}): string {
  return `agent-${agentId}-${o.epoch ?? 1}${at(o.place ?? "")}`;
}

const at = (place: string): string => (place === "" ? "" : `@${place}`);

const serviceName = new RegExp(`^muster-(${logins.join("|")})(?:@.+)?$`, "s");
const agentName =
  /^agent-([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})-([1-9][0-9]{0,6})(?:@.+)?$/s;

/** Whose login the AMQP property `user_id` names; undefined where it is missing, or nobody's of ours. */
export function senderOf(userId: string | undefined): Sender | undefined {
  if (userId === undefined) return undefined;
  const login = serviceName.exec(userId)?.[1];
  if (login === "topology" || login === "warden") return { kind: login };
  const service = services.find((one) => one === login);
  if (service !== undefined) return { kind: "service", service };
  const [, agentId, epoch] = agentName.exec(userId) ?? [];
  return agentId === undefined ? undefined : { kind: "agent", agentId, epoch: Number(epoch) };
}

const isOneOf = (sender: Sender | undefined, allowed: readonly Service[]): boolean =>
  sender?.kind === "service" && allowed.includes(sender.service);

/** Whether this sender may have asked: one of the contract's callers. */
export const mayAsk = (contract: Pick<RequestContract, "callers">, sender: Sender | undefined): boolean =>
  isOneOf(sender, contract.callers);

/** Whether this sender may have told of it: its owner, or who puts back what died. */
export const mayTell = (contract: Pick<EventContract, "owner">, sender: Sender | undefined): boolean =>
  isOneOf(sender, [contract.owner, deadLettersKeeper]);

/** Whether this sender may have rung: the doorbell's owner, or who puts back what died. */
export const mayRing = (contract: Pick<DoorbellContract, "owner">, sender: Sender | undefined): boolean =>
  isOneOf(sender, [contract.owner, deadLettersKeeper]);

/** Whether this sender is the agent whose report it is. */
export const mayReport = (agentId: string, sender: Sender | undefined): boolean =>
  sender?.kind === "agent" && sender.agentId === agentId;

/** Why a sender was refused, as a label: it named none, it is nobody of ours, or it may not send such a message. */
export type SenderFault = "no_sender" | "unknown_sender" | "other_sender";

export function senderFault(userId: string | undefined): SenderFault {
  if (userId === undefined) return "no_sender";
  return senderOf(userId) === undefined ? "unknown_sender" : "other_sender";
}
