/** What stands where something secret stood. */
export const redacted = "[redacted]";

const depthMax = 8;
const entriesMax = 100;
const causesMax = 5;

const secretKeys = new Set([
  "authorization",
  "proxyauthorization",
  "cookie",
  "setcookie",
  "identity",
  "params",
  "body",
  "credential",
  "credentials",
  "privatekey",
  "pairingcode",
  "jwt",
  "assertion",
]);
const secretEndings = /(?:token|tokens|secret|secrets|password|passwd|passphrase|apikey|apikeys)$/;

/** Whether a value under this key is never logged, whatever it is; `_`, `-` and case do not matter. */
export function isSecretKey(key: string): boolean {
  const plain = key.toLowerCase().replaceAll(/[-_.]/g, "");
  return secretKeys.has(plain) || secretEndings.test(plain);
}

/** A copy that is safe to log: secrets replaced at any depth, errors described, depth and width bounded. */
export function scrub(value: Record<string, unknown>): Record<string, unknown> {
  return scrubEntries(value, 0);
}

function scrubEntries(value: object, depth: number): Record<string, unknown> {
  const safe: Record<string, unknown> = {};
  let left = entriesMax;
  for (const [key, inner] of Object.entries(value)) {
    if (left-- === 0) {
      safe["…"] = "more entries left out";
      break;
    }
    safe[key] = isSecretKey(key) && !saysNothing(inner) ? redacted : scrubValue(inner, depth + 1);
  }
  return safe;
}

function saysNothing(value: unknown): boolean {
  return value === undefined || value === null || typeof value === "boolean";
}

function scrubValue(value: unknown, depth: number): unknown {
  if (typeof value === "bigint") return value.toString();
  if (typeof value !== "object" || value === null) return value;
  if (value instanceof Error) return describeError(value);
  if (depth > depthMax) return "[too deep]";
  if (ArrayBuffer.isView(value)) return `[${value.byteLength} bytes]`;
  if (Array.isArray(value)) {
    const kept = value.slice(0, entriesMax).map((inner) => scrubValue(inner, depth + 1));
    return value.length > entriesMax ? [...kept, `${value.length - entriesMax} more`] : kept;
  }
  if (value instanceof Map || value instanceof Set) return `[${value.constructor.name} of ${value.size}]`;
  if ("toJSON" in value && typeof value.toJSON === "function") {
    const json: unknown = Reflect.apply(value.toJSON, value, []);
    return json === value ? scrubEntries(value, depth) : scrubValue(json, depth + 1);
  }
  return scrubEntries(value, depth);
}

/** Only what we know to be harmless: an error of a library may hold a whole request. */
export function describeError(error: Error, causesLeft: number = causesMax): Record<string, unknown> {
  const described: Record<string, unknown> = { type: error.name, message: error.message, stack: error.stack };
  for (const key of ["code", "details", "errno", "syscall", "address", "port"] as const) {
    if (key in error) described[key] = scrubValue((error as unknown as Record<string, unknown>)[key], 2);
  }
  if (causesLeft === 0) return described;
  if (error.cause instanceof Error) described["cause"] = describeError(error.cause, causesLeft - 1);
  else if (error.cause !== undefined) described["cause"] = scrubValue(error.cause, 2);
  if (error instanceof AggregateError) {
    const inner = error.errors.slice(0, 5);
    described["errors"] = inner.map((one) =>
      one instanceof Error ? describeError(one, causesLeft - 1) : scrubValue(one, 2),
    );
  }
  return described;
}

/** Secrets inside text, in a finished JSON line: credentials of URLs, bearer tokens, JWTs, query parameters. */
export function scrubText(line: string): string {
  let text = line;
  if (text.includes("://")) text = text.replaceAll(/:\/\/[^\s/"]+@/g, `://${redacted}@`);
  text = text.replaceAll(/\b(Bearer|Basic)\s+[\w.~+/=-]{8,}/gi, `$1 ${redacted}`);
  if (text.includes("eyJ")) text = text.replaceAll(/\beyJ[\w-]+\.[\w-]+\.[\w-]*/g, redacted);
  if (text.includes("=")) {
    text = text.replaceAll(
      /\b(access_token|refresh_token|token|api_key|apikey|client_secret|secret|password)=[^&\s"\\]+/gi,
      `$1=${redacted}`,
    );
  }
  return text;
}
