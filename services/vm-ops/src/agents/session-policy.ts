/** What is known of an agent's last accepted session. */
export interface KnownSession {
  readonly generation: number;
  /** The newest generation that the agent has shown to know. */
  readonly usedGeneration: number;
  readonly sessionId: string;
  readonly journalId: string;
  readonly journalSeq: number;
  readonly ageMs: number;
  readonly quarantineReason: string | null;
  /** It was paired anew since. */
  readonly released: boolean;
}

export interface Hello {
  readonly sessionId: string;
  readonly journalId: string;
  readonly journalSeq: number;
  /** Of the last session that this journal was granted. */
  readonly lastGeneration: number;
}

export type HelloVerdict =
  | { readonly kind: "same" }
  | { readonly kind: "accepted"; readonly generation: number }
  /** An older hello that was overtaken on its way. */
  | { readonly kind: "overtaken" }
  | { readonly kind: "quarantine"; readonly reason: string };

/** Hellos of one agent may overtake each other for as long as one may wait in the queue and be sent again. */
const overtakenMs = 120_000;

/**
 * The newest session wins. A journal or a generation that runs backwards is a clone or a rolled-back snapshot; a new
 * journal that was never granted a session is a fresh installation, and also ends a quarantine. Session ids are
 * UUIDv7 of one host, so an older hello that arrives late is known by its id and harms nobody. An agent that was paired
 * anew is taken as it is: an operator has said which of two it is, and only that one has the new key.
 */
export function judgeHello(known: KnownSession | undefined, hello: Hello): HelloVerdict {
  if (known === undefined) return { kind: "accepted", generation: hello.lastGeneration + 1 };
  if (known.released) {
    return { kind: "accepted", generation: Math.max(known.generation, hello.lastGeneration) + 1 };
  }
  if (hello.journalId !== known.journalId) {
    if (hello.lastGeneration === 0) return { kind: "accepted", generation: known.generation + 1 };
    const reason = `its journal is not the one that is known, yet it was granted session ${hello.lastGeneration}`;
    return { kind: "quarantine", reason };
  }
  if (known.quarantineReason !== null) return { kind: "quarantine", reason: known.quarantineReason };
  if (hello.sessionId === known.sessionId) return { kind: "same" };
  if (hello.sessionId < known.sessionId && known.ageMs < overtakenMs) return { kind: "overtaken" };
  if (hello.journalSeq < known.journalSeq) {
    const reason = `its journal ran backwards: it ends at ${hello.journalSeq}, it had reached ${known.journalSeq}`;
    return { kind: "quarantine", reason };
  }
  if (hello.lastGeneration < known.usedGeneration) {
    const reason = `its generation ran backwards: it knows ${hello.lastGeneration}, it had used ${known.usedGeneration}`;
    return { kind: "quarantine", reason };
  }
  return { kind: "accepted", generation: Math.max(known.generation, hello.lastGeneration) + 1 };
}
