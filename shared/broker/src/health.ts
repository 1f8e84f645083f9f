/** Whether a part can do its work, and if not, what an operator should read. */
export interface Health {
  ok: boolean;
  reason?: string;
  detail?: unknown;
}

export const healthy = (detail?: unknown): Health =>
  detail === undefined ? { ok: true } : { ok: true, detail };

export const unhealthy = (reason: string, detail?: unknown): Health =>
  detail === undefined ? { ok: false, reason } : { ok: false, reason, detail };

/** Not well if any part is not; the reason names the parts. */
export function combined(parts: Readonly<Record<string, Health>>): Health {
  const sick = Object.entries(parts).filter(([, health]) => !health.ok);
  if (sick.length === 0) return healthy(parts);
  return unhealthy(sick.map(([name, health]) => `${name}: ${health.reason ?? "not well"}`).join("; "), parts);
}
