import { readFileSync } from "node:fs";
import { join } from "node:path";
import { asyncapiOf } from "@muster/contracts/asyncapi";
import { breakingChanges } from "@muster/contracts/compatibility";
import { contractsOf, goldenOf, type Golden } from "@muster/contracts/golden";
import { stableJson } from "@muster/contracts/schema";

/** A file that is derived from the code; `path` is relative to the repository. */
export interface GeneratedFile {
  readonly path: string;
  readonly content: string;
}

const goldenFolder = "shared/contracts/golden";

/** docs/asyncapi.json and one golden file per contract. Throws when a contract broke its own version. */
export function meshDocuments(repository: string, version: string): GeneratedFile[] {
  const contracts = contractsOf();
  const faults = contracts.flatMap((contract) => {
    const before = readGolden(join(repository, goldenFolder, `${contract.name}.json`));
    return before === undefined ? [] : breaksOf(before, goldenOf(contract));
  });
  if (faults.length > 0) {
    throw new Error(
      `these changes break peers of the same version; declare a new version:\n${faults.join("\n")}`,
    );
  }
  return [
    { path: "docs/asyncapi.json", content: stableJson(asyncapiOf(version)) },
    ...contracts.map((contract) => ({
      path: `${goldenFolder}/${contract.name}.json`,
      content: stableJson(goldenOf(contract)),
    })),
  ];
}

/** Breaks between a pinned contract and today's, each with the contract's name. */
export function breaksOf(before: Golden, after: Golden): string[] {
  // An event flows from its owner to older subscribers, as a reply flows to older askers.
  const side = before.kind === "event" || before.kind === "doorbell" ? "reply" : "payload";
  const found = breakingChanges(before.payload, after.payload, side).map((fault) => `payload ${fault}`);
  if (before.reply !== undefined && after.reply !== undefined) {
    found.push(...breakingChanges(before.reply, after.reply, "reply").map((fault) => `reply ${fault}`));
  }
  return found.map((fault) => `${before.name}: ${fault}`);
}

function readGolden(path: string): Golden | undefined {
  try {
    return JSON.parse(readFileSync(path, "utf8")) as Golden;
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
    throw error;
  }
}
