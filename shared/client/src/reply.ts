import { errorCodes, MusterError, wireError } from "@muster/contracts/errors";
import type { ErrorCode } from "@muster/contracts/errors";

/** An error reply as a MusterError; whatever stands between us and the gateway may answer in another shape. */
export async function errorOf(response: Response): Promise<MusterError> {
  const text = await response.text().catch(() => "");
  const retryAfterMs = retryAfterOf(response.headers.get("retry-after"));
  const wire = wireError.safeParse(errorField(text));
  if (wire.success) {
    return new MusterError(wire.data.code, wire.data.message, {
      details: wire.data.details ?? [],
      retryAfterMs: wire.data.retry_after_ms ?? retryAfterMs,
    });
  }
  const said = text.trim().slice(0, 200);
  const message = `the answer was HTTP ${response.status}${said === "" ? "" : `: ${said}`}`;
  return new MusterError(codeOf(response.status), message, { retryAfterMs });
}

function errorField(text: string): unknown {
  try {
    const body: unknown = JSON.parse(text);
    return typeof body === "object" && body !== null && "error" in body ? body.error : undefined;
  } catch {
    return undefined;
  }
}

/** The nearest code of ours for an answer that carries none, or one that this client does not know. */
function codeOf(status: number): ErrorCode {
  if (status === 401) return "INVALID_OR_MISSING_BEARER_TOKEN";
  if (status === 429) return "RATE_LIMITED";
  if (status >= 502 && status <= 504) return "DEPENDENCY_UNAVAILABLE";
  const codes = Object.keys(errorCodes) as ErrorCode[];
  return codes.find((code) => errorCodes[code].status === status) ?? "INTERNAL";
}

/** RFC 9110 §10.2.3: seconds, or a date. */
export function retryAfterOf(header: string | null, nowMs: number = Date.now()): number | undefined {
  if (header === null) return undefined;
  if (/^[0-9]{1,6}$/.test(header)) return Number(header) * 1_000;
  const at = Date.parse(header);
  return Number.isNaN(at) ? undefined : Math.max(0, at - nowMs);
}

export function unreachable(baseUrl: string, cause: unknown): MusterError {
  const why = cause instanceof Error ? (cause.cause instanceof Error ? cause.cause : cause).message : "";
  return new MusterError(
    "DEPENDENCY_UNAVAILABLE",
    `cannot reach ${baseUrl}${why === "" ? "" : ` (${why})`}; is the gateway running there?`,
    { cause },
  );
}
