import { createRequire } from "node:module";
import { ConnectionCut, type Steps } from "./steps.ts";

type Query = (this: object, ...args: unknown[]) => unknown;

/** Tables that a text writes, and what kinds of message and transition go along. */
export function writesOf(text: string, values: unknown): string[] {
  const found = new Set<string>();
  const verbs = /(?<!\b(?:FOR|KEY|DO) )\b(INSERT INTO|UPDATE|DELETE FROM) "?([a-z_]+)"?/g;
  for (const [, verb = "", table = ""] of text.matchAll(verbs)) {
    found.add(`${verb.split(" ")[0]?.toLowerCase() ?? ""}:${table}`);
  }
  if (found.size === 0) return [];
  const given = JSON.stringify(values ?? "");
  if (found.has("insert:outbox")) {
    for (const [type] of `${text} ${given}`.matchAll(/\b[a-z][a-z-]*(?:\.[a-z-]+)+\.v[0-9]+\b/g))
      found.add(type);
  }
  for (const [, rule = ""] of given.matchAll(/\\*"rule\\*":\\*"([a-z_]+)/g)) found.add(`${ruleMark}${rule}`);
  return [...found];
}

const ruleMark = "rule:";

/**
 * The steps that one commit is: each transition that it writes, in whatever company; without any, all that it writes.
 * What happens to come together seldom comes together again.
 */
export function commitsOf(writes: readonly string[]): string[] {
  const rules = writes.filter((write) => write.startsWith(ruleMark));
  const names = rules.length > 0 ? rules : [[...writes].sort().join(" ")];
  return names.map((name) => `commit ${name.replace(ruleMark, "")}`).sort();
}

/** Commits, and statements that commit by themselves. `after`: the server has answered, the caller knows nothing. */
export function countCommits(steps: Steps, from: string): void {
  const pg = createRequire(from)("pg") as { Client: { prototype: object } };
  const query = Reflect.get(pg.Client.prototype, "query") as Query;
  const open = new WeakMap<object, Set<string>>();
  Reflect.set(pg.Client.prototype, "query", function queryCounted(this: object, ...args: unknown[]): unknown {
    const [text, values] = textOf(args);
    if (/^\s*(BEGIN|START TRANSACTION)\b/i.test(text)) open.set(this, new Set());
    const writes = open.get(this);
    const fresh = writesOf(text, values);
    for (const write of fresh) writes?.add(write);
    const commits = /(^|;)\s*COMMIT\s*;?\s*$/i.test(text);
    if (commits || /^\s*ROLLBACK\s*$/i.test(text)) open.delete(this);
    const durable = writes === undefined ? fresh : commits ? [...writes] : [];
    if (durable.length === 0) return Reflect.apply(query, this, args);
    const begun = commitsOf(durable).map((step) => steps.begin(step));
    const answer = Reflect.apply(query, this, args);
    if (!(answer instanceof Promise)) return answer;
    return answer.then((result: unknown) => {
      const cut = begun.map((one) => one.done()).includes(true);
      if (cut) throw new ConnectionCut("Connection terminated unexpectedly");
      return result;
    });
  });
}

function textOf(args: readonly unknown[]): [text: string, values: unknown] {
  const [first, second] = args;
  if (typeof first === "string") return [first, second];
  if (typeof first !== "object" || first === null) return ["", undefined];
  const text: unknown = Reflect.get(first, "text");
  return [typeof text === "string" ? text : "", Reflect.get(first, "values")];
}
