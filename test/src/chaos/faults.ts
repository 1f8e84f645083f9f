import { databaseFaults } from "./faults-database.ts";
import { brokerFaults } from "./faults-broker.ts";
import type { Fault } from "./fault.ts";
import { linkFaults } from "./faults-link.ts";
import { machineFaults } from "./faults-machine.ts";
import { processFaults } from "./faults-process.ts";

/** Every fault there is. One more in any of these lists is used from then on. */
export const faults: readonly Fault[] = [
  ...processFaults,
  ...linkFaults,
  ...brokerFaults,
  ...databaseFaults,
  ...machineFaults,
];
