import type { ResolvedSecrets } from "@muster/contracts/secret-reports";
import { expect } from "chai";
import { describe, it } from "mocha";
import { StartRefused } from "../driver.ts";
import { deliveryOf } from "./delivery.ts";

const one = (reference: string, as: ResolvedSecrets[number]["as"], value = `value of ${reference}`) => ({
  ...{ reference, version: 1, value, as },
});
const [a, b] = ["secret://a", "secret://b#field@2"];

function refusal(around: Parameters<typeof deliveryOf>[0], resolved: ResolvedSecrets): string {
  try {
    deliveryOf(around, resolved);
  } catch (error) {
    if (error instanceof StartRefused) return `${error.reason}: ${error.message}`;
    throw error;
  }
  return "none";
}

describe("secrets reach a program", () => {
  it("in place of the references in env and stdin, whatever their bindings say, the others as bound", () => {
    const around = {
      env: { A: a, AGAIN: a, PLAIN: "x" },
      stdin: b,
      secrets: [a, "secret://c", "secret://d"],
    };
    const resolved = [one(a, { file: "a.txt" }), one(b, { env: "NO" })];
    const others = [one("secret://c", { env: "C" }), one("secret://d", { file: "/dev/shm/d" })];
    expect(deliveryOf(around, [...resolved, ...others])).to.deep.equal({
      env: { PLAIN: "x" },
      stdin: undefined,
      secret: {
        env: { A: `value of ${a}`, AGAIN: `value of ${a}`, C: "value of secret://c" },
        stdin: `value of ${b}`,
        files: [
          { path: "a.txt", value: `value of ${a}` },
          { path: "/dev/shm/d", value: "value of secret://d" },
        ],
      },
    });
    expect(deliveryOf({ env: { PLAIN: "x" }, stdin: "in" })).to.deep.equal({
      ...{ env: { PLAIN: "x" }, stdin: "in", secret: undefined },
    });
    const twice = deliveryOf({ env: { A: a }, secrets: [a, a] }, [one(a, { env: "A" })]);
    expect(twice.secret?.env, "the same one for one place").to.deep.equal({ A: `value of ${a}` });
  });

  it("never two for one place, nor for one that is taken, and the refusal says which without a value", () => {
    const cases: [Parameters<typeof deliveryOf>[0], ResolvedSecrets, RegExp][] = [
      [
        { secrets: [a, b] },
        [one(a, { env: "X" }), one(b, { env: "X" })],
        /secret:\/\/a and .*b#field@2 .*variable X/,
      ],
      [
        { env: { X: b }, secrets: [a] },
        [one(a, { env: "X" }), one(b, { env: "Y" })],
        /both for the variable X/,
      ],
      [{ env: { X: "plain" }, secrets: [a] }, [one(a, { env: "X" })], /a is for X, which has a value/],
      [{ secrets: [a, b] }, [one(a, { stdin: true }), one(b, { stdin: true })], /both for stdin/],
      [{ stdin: a, secrets: [b] }, [one(a, { env: "A" }), one(b, { stdin: true })], /both for stdin/],
      [{ stdin: "text", secrets: [a] }, [one(a, { stdin: true })], /for stdin, which has a text/],
      [{ secrets: [a, b] }, [one(a, { file: "f" }), one(b, { file: "f" })], /both for the file f/],
      [{ secrets: [a] }, [one(a, { env: "MUSTER_COMMAND_HANDLE" })], /which the agent sets itself/],
      [{ env: { MUSTER_SECRETS_DIR: a } }, [one(a, { env: "A" })], /which the agent sets itself/],
      [{ env: { A: a } }, [], /secret:\/\/a was not given/],
      [{ env: { A: a } }, [one(a, { env: "A" }, "x".repeat(600_000))], /600000 bytes/],
    ];
    for (const [around, resolved, text] of cases) {
      const said = refusal(around, resolved);
      expect(said, String(text))
        .to.match(/^secret_refused: /)
        .and.match(text);
      expect(said).to.not.include("value of secret");
    }
  });
});
