import { MusterError } from "@muster/contracts/errors";
import { commandRequest } from "@muster/contracts/vm-ops";
import { expect } from "chai";
import fc from "fast-check";
import { canonicalJson } from "./canonical-json.ts";
import { differences, validateCommand } from "./validate.ts";

const vm_uuid = "018f0000-0000-7000-8000-000000000001";
const wanted = (change: object) =>
  validateCommand(commandRequest.parse({ vm_uuid, action: "exec", params: { program: "ls" }, ...change }));

describe("validating a command", () => {
  it("puts the action's defaults in their place", () => {
    expect(wanted({})).to.deep.include({
      ...{
        lane: "work",
        retrySafety: "never",
        timeoutMs: 3_600_000,
        expiresInMs: 3_600_000,
        timeoutAskedMs: null,
      },
      params: '{"args":[],"program":"ls"}',
    });
    expect(wanted({ timeout_seconds: 1.5, expires_in_seconds: 2 })).to.include({
      timeoutMs: 1_500,
      expiresInMs: 2_000,
    });
  });

  it("names each fault of the params by its path", () => {
    try {
      wanted({ params: { program: "", args: ["a", "\0"], colour: "red" } });
      expect.fail("accepted");
    } catch (error) {
      if (!(error instanceof MusterError)) throw error;
      expect(error.code).to.equal("VALIDATION_FAILED");
      expect(error.details.map((detail) => detail.path).sort()).to.deep.equal([
        ...["params.args[1]", "params.colour", "params.program"],
      ]);
    }
  });

  it("has one digest for equal params, whatever the order of their keys", () => {
    const one = wanted({ params: { program: "ls", env: { A: "1", B: "2" } } });
    const other = wanted({ params: { env: { B: "2", A: "1" }, program: "ls", args: [] } });
    expect(one.payloadSha256).to.equal(other.payloadSha256);
    expect(differences(one, other)).to.deep.equal([]);
  });

  it("names every field that differs", () => {
    const paths = (change: object) => differences(wanted({}), wanted(change)).map((detail) => detail.path);
    expect(paths({ timeout_seconds: 5 })).to.deep.equal(["timeout_seconds"]);
    expect(paths({ expires_in_seconds: 5, environment: "prod" })).to.deep.equal([
      "expires_in_seconds",
      "environment",
    ]);
    expect(paths({ project_id: "p" })).to.deep.equal(["project_id"]);
    expect(paths({ params: { program: "rm", args: ["x"] } })).to.have.members([
      "params.program",
      "params.args",
    ]);
    expect(paths({ action: "ping", params: {} })).to.include("action");
  });
});

describe("canonical JSON", () => {
  it("keeps every value and loses the order of keys alone", () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        const text = canonicalJson(value);
        expect(JSON.parse(text)).to.deep.equal(JSON.parse(JSON.stringify(value)));
        expect(canonicalJson(JSON.parse(text))).to.equal(text);
      }),
    );
  });
});
