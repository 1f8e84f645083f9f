/** Kept of each stream: this much from its beginning, and this much up to its end. */
export const headBytes = 1024 * 1024;
export const tailBytes = 1024 * 1024;

export interface Chunk {
  readonly offset: number;
  readonly data: Buffer;
  readonly last: boolean;
}

export interface StreamState {
  readonly nextOffset: number;
  readonly complete: boolean;
}

export interface Placed {
  /** What of the chunk is new; undefined when all of it was stored before, or it only ends the stream. */
  readonly store: { readonly offset: number; readonly data: Buffer } | undefined;
  readonly after: StreamState;
}

/**
 * Where a chunk goes. Offsets make repetition harmless; a jump past the end is output that the agent has cut and is
 * taken as it is; what comes after the last chunk changes nothing.
 */
export function placeChunk(stream: StreamState, chunk: Chunk): Placed {
  const end = chunk.offset + chunk.data.length;
  if (stream.complete) return { store: undefined, after: stream };
  const from = Math.max(chunk.offset, stream.nextOffset);
  const data = chunk.data.subarray(Math.max(0, from - chunk.offset));
  return {
    store: end > from && data.length > 0 ? { offset: from, data } : undefined,
    after: { nextOffset: Math.max(stream.nextOffset, end), complete: chunk.last },
  };
}

/** Chunks that start at or after `from` and end before `to` are the middle: they go. Undefined while all fits. */
export function middleOf(nextOffset: number): { readonly from: number; readonly to: number } | undefined {
  const to = nextOffset - tailBytes;
  return to <= headBytes ? undefined : { from: headBytes, to };
}
