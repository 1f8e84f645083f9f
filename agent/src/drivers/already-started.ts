/** The handle was started, or its start was fenced off, before: whoever gets this finds out which. */
export class AlreadyStarted extends Error {
  override readonly name = "AlreadyStarted";
}
