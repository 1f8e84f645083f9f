export type PresenceState = "online" | "suspect" | "lost" | "stopped";

export interface Known {
  readonly state: PresenceState;
  readonly generation: number;
}

export interface Heard {
  readonly generation: number;
  readonly stopping: boolean;
}

export type Transition =
  /** Of an older session, or after the session's own last word: it says nothing. */
  | { readonly heed: false }
  | {
      readonly heed: true;
      readonly state: "online" | "stopped";
      readonly event: "recovered" | "stopped" | null;
    };

/** What a heartbeat makes of what was known of its agent; `undefined` is an agent that was never heard of. */
export function afterHeartbeat(known: Known | undefined, heard: Heard): Transition {
  if (known !== undefined && heard.generation < known.generation) return { heed: false };
  if (heard.stopping) {
    const alreadyGone = known?.state === "stopped" || known?.state === "lost";
    return { heed: true, state: "stopped", event: alreadyGone ? null : "stopped" };
  }
  if (known?.state === "stopped" && heard.generation === known.generation) return { heed: false };
  const back = known === undefined || known.state === "lost" || known.state === "stopped";
  return { heed: true, state: "online", event: back ? "recovered" : null };
}
