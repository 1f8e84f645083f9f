import type { OutputPage } from "@muster/contracts/commands";
import { cursorOf, placeAt } from "./place.ts";
import type { Place } from "./place.ts";

export type ReadPage = (cursor: string | undefined) => Promise<OutputPage>;
export interface PageAt {
  /** Where the page starts. */
  readonly from: Place;
  /** Where the next one starts. */
  readonly to: Place;
  readonly page: OutputPage;
}

/**
 * The output after a place. When another attempt has begun, its output is read from the start:
 * offsets of one attempt say nothing in another.
 */
export async function readAfter(place: Place | undefined, read: ReadPage): Promise<PageAt> {
  const page = await read(place === undefined ? undefined : cursorOf(place));
  if (place === undefined || page.attempt === place.attempt) return at(place, page);
  return at(undefined, await read(undefined));
}

function at(place: Place | undefined, page: OutputPage): PageAt {
  const from = place ?? { attempt: page.attempt, stdout: 0, stderr: 0 };
  return { from, to: placeAt(page.attempt, page.cursor), page };
}
