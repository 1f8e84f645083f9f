import type { Jwks } from "@muster/contracts/auth";
import type { PublicDocument } from "@muster/http/server";
import { authUnavailable } from "./api-keys.ts";

export interface KeyDocumentOptions {
  readonly fetchKeys: () => Promise<Jwks>;
  readonly maxAgeMs: number;
  /** How long whoever reads it may use it. */
  readonly publicMaxAgeMs: number;
  /** How old an answer may be while auth is away. */
  readonly staleMaxMs: number;
  readonly now: () => number;
}

/** `/.well-known/jwks.json` (RFC 7517): the key set as it is, asked for by one flight at a time. */
export function keyDocument(o: KeyDocumentOptions): () => Promise<PublicDocument> {
  const cacheControl = `public, max-age=${Math.floor(o.publicMaxAgeMs / 1_000)}`;
  let kept: { document: PublicDocument; atMs: number } | undefined;
  let flight: Promise<PublicDocument> | undefined;

  async function fetched(): Promise<PublicDocument> {
    try {
      const text = JSON.stringify(await o.fetchKeys());
      const document = { type: "application/jwk-set+json", text, cacheControl };
      kept = { document, atMs: o.now() };
      return document;
    } catch (error) {
      if (kept !== undefined && o.now() - kept.atMs < o.staleMaxMs) return kept.document;
      throw authUnavailable(error);
    } finally {
      flight = undefined;
    }
  }
  return async () => {
    if (kept !== undefined && o.now() - kept.atMs < o.maxAgeMs) return kept.document;
    return await (flight ??= fetched());
  };
}
