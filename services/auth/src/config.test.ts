import { readSettings, SettingsError } from "@muster/service/settings";
import { expect } from "chai";
import { checkTogether, settings } from "./config.ts";

const needed = {
  MUSTER_AMQP_URL: "amqp://127.0.0.1",
  MUSTER_MANAGEMENT_URL: "http://127.0.0.1:15672",
  MUSTER_DATABASE_URL: "postgres://auth@127.0.0.1/muster",
  MUSTER_AUTH_KEY_ENCRYPTION_KEY: Buffer.alloc(32).toString("base64"),
};
const rotation = "MUSTER_AUTH_KEY_ROTATION_SECONDS";
const ahead = "MUSTER_AUTH_KEY_PUBLISH_AHEAD_SECONDS";
const maxAge = "MUSTER_KEYS_MAX_AGE_SECONDS";

function faultsOf(env: Record<string, string>): [string, string | undefined][] {
  try {
    checkTogether(readSettings(settings, { ...needed, ...env }));
  } catch (error) {
    if (!(error instanceof SettingsError)) throw error;
    expect(error.message).to.include("is ");
    return error.faults.map(({ name, value }) => [name, value]);
  }
  return [];
}

describe("settings of signing keys", () => {
  it("agree by default, and at their edges", () => {
    expect(faultsOf({})).to.deep.equal([]);
    expect(faultsOf({ [ahead]: "1200", [rotation]: "1201" })).to.deep.equal([]);
  });

  it("that contradict each other are named with rule and value, all at once", () => {
    expect(faultsOf({ [ahead]: "1199" })).to.deep.equal([[ahead, "1199"]]);
    expect(faultsOf({ [rotation]: "3600" })).to.deep.equal([[rotation, "3600"]]);
    expect(faultsOf({ [maxAge]: "1", [ahead]: "38" })).to.deep.equal([]);
    expect(faultsOf({ [maxAge]: "1", [ahead]: "37", [rotation]: "37" })).to.deep.equal([
      [ahead, "37"],
      [rotation, "37"],
    ]);
  });

  it("of a change of the sealing key name two keys, and tell neither", () => {
    const key = needed.MUSTER_AUTH_KEY_ENCRYPTION_KEY;
    const other = "MUSTER_AUTH_KEY_ENCRYPTION_KEY_OTHER";
    expect(faultsOf({ [other]: Buffer.alloc(32, 1).toString("base64") })).to.deep.equal([]);
    expect(faultsOf({ [other]: key })).to.deep.equal([[other, "the same"]]);
  });
});

describe("settings of limits", () => {
  it("let no account use up what its whole tenant has", () => {
    const [tenant, principal] = ["MUSTER_AUTH_TOKENS_BY_TENANT_MAX", "MUSTER_AUTH_TOKENS_BY_PRINCIPAL_MAX"];
    expect(faultsOf({ [tenant]: "600" })).to.deep.equal([]);
    expect(faultsOf({ [tenant]: "599" })).to.deep.equal([[tenant, "599"]]);
    expect(faultsOf({ [principal]: "6001" })).to.deep.equal([[tenant, "6000"]]);
  });
});
