import { createHash } from "node:crypto";
import { closeSync, openSync, writeSync } from "node:fs";
import { open, type FileHandle } from "node:fs/promises";
import { join } from "node:path";

/*
 * Bounded capture of one stream, written by the supervisor while the agent reads along.
 *   <stream>.head   the first bytes, up to headBytes
 *   <stream>.ring   byte `o` beyond the head lies at (o - headBytes) % ringBytes
 *   counters        per stream: total, head kept, start of what is whole in the ring, ended
 * Data is written before its counters, in pieces of at most pieceBytesMax, so a reader who finds its piece still inside
 * the window afterwards (less one piece that may be in writing) has read what was meant.
 * This file and all it imports have no dependencies: they run inside the supervisor.
 */

export const streams = ["stdout", "stderr"] as const;
export type Stream = (typeof streams)[number];

export interface CaptureLimits {
  readonly headBytes: number;
  readonly ringBytes: number;
}
export const captureLimits: CaptureLimits = { headBytes: 1024 * 1024, ringBytes: 1024 * 1024 };
export const pieceBytesMax = 64 * 1024;

export interface Totals {
  readonly bytes_total: number;
  readonly bytes_kept: number;
  readonly truncated: boolean;
  readonly sha256: string;
}

export interface Counters {
  readonly total: number;
  readonly headKept: number;
  /** Ring content before this offset was lost to a full disk. */
  readonly ringFrom: number;
  readonly ended: boolean;
}

const counterBytes = 32;
const countersFile = "counters";

/** First offset that the ring still holds whole, when nothing is being written. */
export function ringStart(counters: Omit<Counters, "ended">, limits: CaptureLimits): number {
  const oldest = Math.max(limits.headBytes, counters.ringFrom, counters.total - limits.ringBytes);
  return Math.min(oldest, Math.max(counters.total, limits.headBytes));
}

export function keptBytes(counters: Omit<Counters, "ended">, limits: CaptureLimits): number {
  return counters.headKept + Math.max(0, counters.total - ringStart(counters, limits));
}

/** Pieces of a ring write: at most two, split where the ring wraps. */
export function ringPieces(
  offset: number,
  length: number,
  limits: CaptureLimits,
): { at: number; length: number }[] {
  const at = (offset - limits.headBytes) % limits.ringBytes;
  const first = Math.min(length, limits.ringBytes - at);
  const pieces = [{ at, length: first }];
  if (first < length) pieces.push({ at: 0, length: length - first });
  return pieces;
}

/** Where the next readable byte at or after `offset` is, given what the window holds. */
export function nextReadable(
  offset: number,
  counters: Counters,
  limits: CaptureLimits,
): { offset: number; length: number } {
  if (offset < counters.headKept) return { offset, length: counters.headKept - offset };
  // A piece may be in writing beyond the total: what it would overwrite is no longer safe to read.
  const unsafe = counters.ended ? 0 : counters.total + pieceBytesMax - limits.ringBytes;
  const from = Math.max(offset, ringStart(counters, limits), unsafe);
  if (from >= counters.total) return { offset: counters.ended ? counters.total : offset, length: 0 };
  return { offset: from, length: counters.total - from };
}

/** Holds the counters of both streams in place, so that a full disk cannot stop their updates. */
export function createCounters(folder: string): number {
  const fd = openSync(join(folder, countersFile), "wx+", 0o600);
  writeSync(fd, Buffer.alloc(counterBytes * streams.length), 0, counterBytes * streams.length, 0);
  return fd;
}

export class StreamCapture {
  readonly #limits: CaptureLimits;
  readonly #countersFd: number;
  readonly #slot: number;
  readonly #headFd: number;
  readonly #ringFd: number;
  readonly #hash = createHash("sha256");
  readonly #cell = Buffer.alloc(counterBytes);
  #total = 0;
  #headKept = 0;
  #headBroken = false;
  #ringFrom = 0;
  #ended = false;

  constructor(folder: string, stream: Stream, countersFd: number, limits: CaptureLimits) {
    this.#limits = limits;
    this.#countersFd = countersFd;
    this.#slot = streams.indexOf(stream) * counterBytes;
    this.#headFd = openSync(join(folder, `${stream}.head`), "wx+", 0o600);
    this.#ringFd = openSync(join(folder, `${stream}.ring`), "wx+", 0o600);
  }

  /** Never throws and never waits for a reader: what the disk does not take is counted and dropped. */
  write(chunk: Buffer): void {
    this.#hash.update(chunk);
    for (let from = 0; from < chunk.length; from += pieceBytesMax) {
      this.#writePiece(chunk.subarray(from, Math.min(chunk.length, from + pieceBytesMax)));
    }
  }

  #writePiece(piece: Buffer): void {
    const inHead = Math.min(piece.length, Math.max(0, this.#limits.headBytes - this.#total));
    if (inHead > 0) this.#writeHead(piece.subarray(0, inHead));
    if (inHead < piece.length) this.#writeRing(piece.subarray(inHead));
    this.#saveCounters();
  }

  #writeHead(bytes: Buffer): void {
    if (!this.#headBroken) {
      const written = tryWrite(this.#headFd, bytes, this.#total);
      this.#headKept += written;
      this.#headBroken = written < bytes.length;
    }
    this.#total += bytes.length;
  }

  #writeRing(bytes: Buffer): void {
    let done = 0;
    for (const piece of ringPieces(this.#total, bytes.length, this.#limits)) {
      const written = tryWrite(this.#ringFd, bytes.subarray(done, done + piece.length), piece.at);
      done += piece.length;
      if (written < piece.length) this.#ringFrom = this.#total + done;
    }
    this.#total += bytes.length;
  }

  #saveCounters(): void {
    this.#cell.writeBigUInt64LE(BigInt(this.#total), 0);
    this.#cell.writeBigUInt64LE(BigInt(this.#headKept), 8);
    this.#cell.writeBigUInt64LE(BigInt(this.#ringFrom), 16);
    this.#cell.writeBigUInt64LE(this.#ended ? 1n : 0n, 24);
    tryWrite(this.#countersFd, this.#cell, this.#slot);
  }

  /** Ends the stream; idempotent. Bytes written later are not taken. */
  end(): Totals {
    if (!this.#ended) {
      this.#ended = true;
      this.#saveCounters();
      closeSync(this.#headFd);
      closeSync(this.#ringFd);
    }
    const state = { total: this.#total, headKept: this.#headKept, ringFrom: this.#ringFrom };
    const kept = keptBytes(state, this.#limits);
    const sha256 = this.#hash.copy().digest("hex");
    return { bytes_total: this.#total, bytes_kept: kept, truncated: kept < this.#total, sha256 };
  }
}

function tryWrite(fd: number, bytes: Buffer, at: number): number {
  let written = 0;
  try {
    while (written < bytes.length)
      written += writeSync(fd, bytes, written, bytes.length - written, at + written);
  } catch {
    // A full or failing disk: the caller counts what is missing.
  }
  return written;
}

export interface CapturePiece {
  /** Past the offset that was asked for where output has been cut. */
  readonly offset: number;
  readonly data: Buffer;
  /** The stream ends with this piece. */
  readonly last: boolean;
}

/** Reads one command's captured streams from the agent's side, also while they are being written. */
export class CaptureReader {
  readonly #folder: string;
  readonly #limits: CaptureLimits;

  constructor(folder: string, limits: CaptureLimits) {
    this.#folder = folder;
    this.#limits = limits;
  }

  /** The next piece at or after `offset`; undefined while there is nothing new. A folder that is gone has ended. */
  async read(
    stream: Stream,
    offset: number,
    bytesMax: number,
    finished: boolean,
  ): Promise<CapturePiece | undefined> {
    for (let tries = 0; tries < 8; tries++) {
      const before = await this.#counters(stream, finished);
      const next = nextReadable(offset, before, this.#limits);
      if (next.length === 0) {
        return before.ended ? { offset: next.offset, data: Buffer.alloc(0), last: true } : undefined;
      }
      const data = await this.#bytes(stream, next.offset, Math.min(next.length, bytesMax));
      const after = await this.#counters(stream, finished);
      if (nextReadable(next.offset, after, this.#limits).offset !== next.offset) continue;
      const last = after.ended && next.offset + data.length >= after.total;
      return { offset: next.offset, data, last };
    }
    return undefined;
  }

  /** `finished`: the supervisor is gone, so nothing is in writing whatever its counters say. */
  async #counters(stream: Stream, finished: boolean): Promise<Counters> {
    const handle = await open(join(this.#folder, countersFile), "r");
    try {
      let cell = await readAt(handle, streams.indexOf(stream) * counterBytes, counterBytes);
      for (;;) {
        const again = await readAt(handle, streams.indexOf(stream) * counterBytes, counterBytes);
        if (again.equals(cell)) break;
        cell = again;
      }
      const at = (index: number): number => Number(cell.readBigUInt64LE(index * 8));
      return { total: at(0), headKept: at(1), ringFrom: at(2), ended: finished || at(3) === 1 };
    } finally {
      await handle.close();
    }
  }

  async #bytes(stream: Stream, offset: number, length: number): Promise<Buffer> {
    const inHead = offset < this.#limits.headBytes;
    const handle = await open(join(this.#folder, `${stream}.${inHead ? "head" : "ring"}`), "r");
    try {
      if (inHead) return await readAt(handle, offset, Math.min(length, this.#limits.headBytes - offset));
      const parts: Buffer[] = [];
      for (const piece of ringPieces(offset, length, this.#limits)) {
        parts.push(await readAt(handle, piece.at, piece.length));
      }
      return Buffer.concat(parts);
    } finally {
      await handle.close();
    }
  }
}

async function readAt(handle: FileHandle, position: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length);
  let done = 0;
  while (done < length) {
    const { bytesRead } = await handle.read(buffer, done, length - done, position + done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return buffer.subarray(0, done);
}
