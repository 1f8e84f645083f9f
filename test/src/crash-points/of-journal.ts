import { createRequire } from "node:module";
import type { Steps } from "./steps.ts";

type Call = (this: object, ...args: unknown[]) => unknown;

/** Commits of the agent's journal, by the kinds of their records. */
export function countJournal(steps: Steps, from: string): void {
  const sqlite = createRequire(from)("@photostructure/sqlite") as { DatabaseSync: { prototype: object } };
  // The library's methods cannot be replaced, but it makes every connection by this call.
  const construct = Reflect.construct.bind(Reflect) as (...args: unknown[]) => object;
  Reflect.construct = (...args: unknown[]): unknown => {
    const made = construct(...args);
    if (made instanceof (sqlite.DatabaseSync as unknown as new () => object)) countConnection(steps, made);
    return made;
  };
}

function countConnection(steps: Steps, database: object): void {
  let kinds = new Set<string>();
  replace(database, "prepare", (prepare, text) => {
    const statement = prepare(text) as object;
    if (!String(text).startsWith("INSERT INTO records")) return statement;
    replace(statement, "run", (run, ...values) => {
      kinds.add(String(values[3]));
      return run(...values);
    });
    return statement;
  });
  replace(database, "exec", (exec, text) => {
    if (text !== "COMMIT") {
      if (String(text).startsWith("BEGIN")) kinds = new Set();
      return exec(text);
    }
    // A commit takes what came together, in combinations that seldom come again: a step is one kind of record.
    const begun = [...kinds].sort().map((kind) => steps.begin(`journal ${kind}`));
    exec(text);
    for (const one of begun) one.done();
    return undefined;
  });
}

/** Gives one object its own form of a method. */
function replace(
  owner: object,
  method: string,
  by: (original: (...args: unknown[]) => unknown, ...args: unknown[]) => unknown,
): void {
  const original = Reflect.get(owner, method) as Call;
  const bound = (...args: unknown[]): unknown => Reflect.apply(original, owner, args);
  Object.defineProperty(owner, method, {
    value: (...args: unknown[]) => by(bound, ...args),
    configurable: true,
  });
}
