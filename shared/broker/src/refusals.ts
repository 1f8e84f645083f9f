/** Why a broker turned a connection away, and whether trying again the same way can help. */
export interface Refusal {
  readonly kind: "credentials" | "vhost" | "limit" | "unreachable";
  readonly message: string;
}

/** Opening failed in a way that only an operator can mend. */
export class BrokerRefusedError extends Error {
  override readonly name = "BrokerRefusedError";
  readonly refusal: Refusal;

  constructor(refusal: Refusal, cause: unknown) {
    super(refusal.message, { cause });
    this.refusal = refusal;
  }
}

/** Reads a failed connect: RabbitMQ answers 403 to wrong credentials and 530 to an unknown or forbidden vhost. */
export function refusalOf(error: unknown, where: string): Refusal {
  const text = error instanceof Error ? error.message : String(error);
  if (/\b403\b|ACCESS[_-]REFUSED/i.test(text)) {
    if (/vhost/i.test(text)) return vhostRefusal(where, text);
    return {
      kind: "credentials",
      message: `the broker at ${where} refused the user name or password; check both in the AMQP URL and that the user exists (${text})`,
    };
  }
  if (/\b530\b|NOT[_-]ALLOWED/i.test(text)) {
    if (/limit/i.test(text)) {
      return {
        kind: "limit",
        message: `the broker at ${where} takes no more connections of this user or vhost; raise its limit (${text})`,
      };
    }
    return vhostRefusal(where, text);
  }
  // amqplib hides the broker's words when it closes the connection instead of opening the vhost
  if (text.startsWith("Expected ConnectionOpenOk")) return vhostRefusal(where, "530");
  return { kind: "unreachable", message: `cannot connect to the broker at ${where}: ${text}` };
}

function vhostRefusal(where: string, text: string): Refusal {
  return {
    kind: "vhost",
    message: `the broker at ${where} has no such vhost or the user may not enter it; create it and grant permissions; or its connection limit is reached (${text})`,
  };
}

/** Trying again unchanged cannot help. */
export const isFinal = (refusal: Refusal): boolean =>
  refusal.kind === "credentials" || refusal.kind === "vhost";

/** host:port/vhost of an AMQP URL, without its secrets. */
export function placeOf(url: string): string {
  if (!URL.canParse(url)) return "an invalid AMQP URL";
  const { host, pathname } = new URL(url);
  return `${host}${pathname === "" ? "/" : pathname}`;
}
