import type { ActionName } from "@muster/contracts/actions";
import type { Driver, DriverSurroundings } from "./driver.ts";
import { EchoDriver } from "./echo/echo-driver.ts";
import { ProcessDriver } from "./process/process-driver.ts";

/** Every driver there is; a new one is a folder and a line here. */
const registry = {
  process: (o: DriverSurroundings): Promise<Driver> => ProcessDriver.open(o),
  echo: (): Promise<Driver> => Promise.resolve(new EchoDriver()),
} as const satisfies Record<string, (o: DriverSurroundings) => Promise<Driver>>;

export type DriverName = keyof typeof registry;
export const driverNames = Object.keys(registry) as [DriverName, ...DriverName[]];

export interface Drivers {
  readonly all: readonly Driver[];
  /** The first of the drivers, in the order of the setting, that has the action. */
  forAction(action: ActionName): Driver | undefined;
}

export async function openDrivers(names: readonly DriverName[], o: DriverSurroundings): Promise<Drivers> {
  const all = await Promise.all(names.map((name) => registry[name](o)));
  return { all, forAction: (action) => all.find((driver) => driver.actions.includes(action)) };
}
