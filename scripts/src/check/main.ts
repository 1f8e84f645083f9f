import { repositoryRoot } from "../run/folder.ts";
import { readRepository } from "./repository.ts";
import { faultsOf } from "./tidy.ts";

const faults = faultsOf(readRepository(repositoryRoot));
for (const fault of faults) process.stderr.write(`${fault}\n`);
process.exitCode = faults.length > 0 ? 1 : 0;
