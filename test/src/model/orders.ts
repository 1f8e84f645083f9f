/** Work whose starts and output the model knows: a shell text that first appends one line to the file of starts. */
export interface Order {
  readonly vmUuid: string;
  readonly action?: "exec" | "script";
  /** What it writes; known bytes. */
  readonly stdoutBytes?: number;
  readonly stderrBytes?: number;
  readonly exitCode?: number;
  /** How long it runs on after its output. */
  readonly seconds?: number;
  readonly timeoutSeconds?: number;
  readonly expiresInSeconds?: number;
  /** Ends that are right besides those that follow from the order, as `state:reason`. */
  readonly alsoEnds?: readonly string[];
}

export interface RequestBody {
  readonly vm_uuid: string;
  readonly action: "exec" | "script";
  readonly params: Record<string, unknown>;
  readonly timeout_seconds?: number;
  readonly expires_in_seconds?: number;
}

export function bodyOf(order: Order, key: string, startsFile: string): RequestBody {
  const text = textOf(order, key, startsFile);
  const params = order.action === "script" ? { text } : { program: "sh", args: ["-c", text] };
  return {
    vm_uuid: order.vmUuid,
    action: order.action ?? "exec",
    params,
    ...(order.timeoutSeconds === undefined ? {} : { timeout_seconds: order.timeoutSeconds }),
    ...(order.expiresInSeconds === undefined ? {} : { expires_in_seconds: order.expiresInSeconds }),
  };
}

function textOf(order: Order, key: string, startsFile: string): string {
  // A shell whose child is killed says so on its own stderr, unless that is elsewhere meanwhile.
  const quietly = (work: string): string => `{ ${work}; } 3>&2 2>/dev/null\n`;
  const written = (bytes: number | undefined, to: string): string =>
    (bytes ?? 0) === 0 ? "" : quietly(`yes '${key}' | head -c ${bytes ?? 0}${to}`);
  // One short write to a file opened for appending: a line is never torn, and never lost.
  return [
    `echo "${key} $MUSTER_COMMAND_HANDLE" >> '${startsFile}'\n`,
    written(order.stdoutBytes, ""),
    written(order.stderrBytes, " >&3"),
    order.seconds === undefined ? "" : quietly(`sleep ${order.seconds}`),
    `exit ${order.exitCode ?? 0}\n`,
  ].join("");
}

/** The bytes that a stream of the order has when it ran to its end. */
export function outputOf(key: string, bytes: number | undefined): Buffer {
  return Buffer.alloc(bytes ?? 0, `${key}\n`);
}

/** How the order may rightly end, as `state:reason`. */
export function endsOf(order: Order, cancelled: boolean): ReadonlySet<string> {
  const ends = [(order.exitCode ?? 0) === 0 ? "succeeded:completed" : "failed:exit_nonzero"];
  if (cancelled) ends.push("cancelled:cancelled_while_running", "cancelled:cancelled_before_start");
  if (order.expiresInSeconds !== undefined) ends.push("expired:delivery_timeout");
  if (order.timeoutSeconds !== undefined) ends.push("expired:execution_timeout");
  return new Set([...ends, ...(order.alsoEnds ?? [])]);
}
