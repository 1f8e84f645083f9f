import { createHash } from "node:crypto";
import { actions } from "@muster/contracts/actions";
import type { ActionName, Lane, RetrySafety } from "@muster/contracts/actions";
import { faultsOf, MusterError } from "@muster/contracts/errors";
import type { FaultDetail } from "@muster/contracts/errors";
import type { commandRequest } from "@muster/contracts/vm-ops";
import type { z } from "zod";
import { canonicalJson } from "./canonical-json.ts";

export type CommandRequest = z.output<typeof commandRequest>;

/** A request that fits its action, with every default in its place. */
export interface Wanted {
  readonly vmUuid: string;
  readonly action: ActionName;
  readonly lane: Lane;
  readonly retrySafety: RetrySafety;
  /** Canonical JSON. */
  readonly params: string;
  readonly payloadSha256: string;
  readonly timeoutMs: number;
  readonly expiresInMs: number;
  readonly timeoutAskedMs: number | null;
  readonly expiresInAskedMs: number | null;
  readonly environment: string | null;
  readonly projectId: string | null;
}

const ms = (seconds: number | undefined): number | null =>
  seconds === undefined ? null : Math.round(seconds * 1_000);

/** Holds the params against the action's own schema. Throws VALIDATION_FAILED with paths like `params.args[0]`. */
export function validateCommand(request: CommandRequest): Wanted {
  const definition = actions[request.action];
  const parsed = definition.params.safeParse(request.params);
  if (!parsed.success) {
    throw new MusterError("VALIDATION_FAILED", undefined, { details: faultsOf(parsed.error, "params") });
  }
  const params = canonicalJson(parsed.data);
  const timeoutAskedMs = ms(request.timeout_seconds);
  const expiresInAskedMs = ms(request.expires_in_seconds);
  return {
    vmUuid: request.vm_uuid,
    action: request.action,
    lane: definition.lane,
    retrySafety: definition.retrySafety,
    params,
    payloadSha256: createHash("sha256").update(params).digest("hex"),
    timeoutMs: timeoutAskedMs ?? definition.timeoutMsDefault,
    expiresInMs: expiresInAskedMs ?? definition.expiresInMsDefault,
    timeoutAskedMs,
    expiresInAskedMs,
    environment: request.environment ?? null,
    projectId: request.project_id ?? null,
  };
}

export type Remembered = Pick<
  Wanted,
  | "vmUuid"
  | "action"
  | "params"
  | "payloadSha256"
  | "timeoutAskedMs"
  | "expiresInAskedMs"
  | "environment"
  | "projectId"
>;

/** What a second request under the same idempotency key has different, by path; empty when it is the same. */
export function differences(first: Remembered, second: Remembered): FaultDetail[] {
  const pairs: readonly [string, unknown, unknown][] = [
    ["vm_uuid", first.vmUuid, second.vmUuid],
    ["action", first.action, second.action],
    ["timeout_seconds", first.timeoutAskedMs, second.timeoutAskedMs],
    ["expires_in_seconds", first.expiresInAskedMs, second.expiresInAskedMs],
    ["environment", first.environment, second.environment],
    ["project_id", first.projectId, second.projectId],
  ];
  const paths = pairs.filter(([, one, other]) => one !== other).map(([path]) => path);
  if (first.payloadSha256 !== second.payloadSha256)
    paths.push(...paramsThatDiffer(first.params, second.params));
  return paths.map((path) => ({ path, message: "differs from the first request under this key" }));
}

function paramsThatDiffer(first: string, second: string): string[] {
  const one = entriesOf(first);
  const other = entriesOf(second);
  const names = new Set([...one.keys(), ...other.keys()]);
  const differing = [...names].filter((name) => one.get(name) !== other.get(name));
  return differing.length === 0 ? ["params"] : differing.map((name) => `params.${name}`);
}

function entriesOf(params: string): Map<string, string> {
  const value: unknown = JSON.parse(params);
  if (typeof value !== "object" || value === null) return new Map();
  return new Map(Object.entries(value).map(([name, part]) => [name, canonicalJson(part)]));
}

/** Refuses a key that was used for something else. Throws IDEMPOTENCY_KEY_REUSED naming what differs. */
export function refuseOther(first: Remembered, second: Remembered): void {
  const details = differences(first, second);
  if (details.length > 0) throw new MusterError("IDEMPOTENCY_KEY_REUSED", undefined, { details });
}
