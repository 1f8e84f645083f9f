import type { StreamName } from "@muster/contracts/commands";

/** How far each stream of one attempt was read, in bytes. */
export interface Place {
  readonly attempt: number;
  readonly stdout: number;
  readonly stderr: number;
}

/** `<attempt>.<stdout>.<stderr>`; undefined when it is not one. */
export function placeOf(text: string | undefined): Place | undefined {
  const match = /^([0-9]{1,9})\.([0-9]{1,15})\.([0-9]{1,15})$/.exec(text ?? "");
  if (match === null) return undefined;
  return { attempt: Number(match[1]), stdout: Number(match[2]), stderr: Number(match[3]) };
}

export const textOf = (place: Place): string => `${place.attempt}.${place.stdout}.${place.stderr}`;

/** What vm-ops calls a cursor: a place within the attempt that it answers for. */
export const cursorOf = (place: Place): string => `${place.stdout}.${place.stderr}`;

export function placeAt(attempt: number, cursor: string): Place {
  return placeOf(`${attempt}.${cursor}`) ?? { attempt, stdout: 0, stderr: 0 };
}

export function advanced(place: Place, stream: StreamName, to: number): Place {
  return stream === "stdout" ? { ...place, stdout: to } : { ...place, stderr: to };
}
