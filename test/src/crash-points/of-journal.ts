import { createRequire } from "node:module";
import type { Steps } from "./steps.ts";

interface Sqlite {
  readonly DatabaseSync: new (file: string) => {
    prepare(text: string): object;
    close(): void;
  };
}
type Run = (this: object, ...values: unknown[]) => unknown;
type Exec = (this: object, text: string) => void;

/** Commits of the agent's journal, by the kinds of their records. */
export function countJournal(steps: Steps, from: string): void {
  const { DatabaseSync } = createRequire(from)("@photostructure/sqlite") as Sqlite;
  const sample = new DatabaseSync(":memory:");
  const statements = Object.getPrototypeOf(sample.prepare("SELECT 1")) as object;
  sample.close();
  let kinds = new Set<string>();
  const run = Reflect.get(statements, "run") as Run;
  Reflect.set(statements, "run", function runNoted(this: object, ...values: unknown[]): unknown {
    const text: unknown = Reflect.get(this, "sourceSQL");
    if (typeof text === "string" && text.startsWith("INSERT INTO records")) kinds.add(String(values[3]));
    return Reflect.apply(run, this, values);
  });
  const exec = Reflect.get(DatabaseSync.prototype as object, "exec") as Exec;
  Reflect.set(
    DatabaseSync.prototype as object,
    "exec",
    function execCounted(this: object, text: string): void {
      if (text !== "COMMIT") {
        if (text.startsWith("BEGIN")) kinds = new Set();
        return Reflect.apply(exec, this, [text]);
      }
      const begun = steps.begin(`journal ${[...kinds].sort().join(" ")}`);
      Reflect.apply(exec, this, [text]);
      begun.done();
    },
  );
}
