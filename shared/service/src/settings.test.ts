import { expect } from "chai";
import { z } from "zod";
import { amqpUrl, authMode, commonSettings, databaseUrl, shadowTenantId } from "./known-settings.ts";
import {
  choice,
  duration,
  envExampleOf,
  flag,
  integer,
  masked,
  printSettings,
  readSettings,
  setting,
  SettingsError,
  text,
} from "./settings.ts";

const settings = {
  MUSTER_AMQP_URL: amqpUrl,
  MUSTER_DATABASE_URL: databaseUrl,
  AUTH_MODE: authMode,
  MUSTER_SHADOW_TENANT_ID: shadowTenantId,
  MUSTER_POOL_MAX: integer({ help: "Connections", min: 1, max: 50, default: 10 }),
  MUSTER_WAIT_MS: duration({ help: "How long to wait", min: 1, max: 1_000, default: 100 }),
  MUSTER_LOUD: flag({ help: "Whether", default: false }),
  MUSTER_API_SECRET: text({ help: "Something secret", secret: true }),
  MUSTER_NOTE: setting({ schema: z.string().optional(), help: "A note" }),
};
const good = {
  MUSTER_AMQP_URL: "amqp://user:canary@localhost:5672/muster",
  MUSTER_DATABASE_URL: "postgres://user:canary@localhost/muster",
  MUSTER_API_SECRET: "canary",
};

function faultsOf(env: Record<string, string | undefined>): SettingsError {
  try {
    readSettings(settings, env);
  } catch (error) {
    if (error instanceof SettingsError) return error;
    throw error;
  }
  throw new Error("no fault found");
}

describe("settings", () => {
  it("become values of their types, with defaults; empty text is unset", () => {
    const values = readSettings(settings, {
      ...good,
      MUSTER_POOL_MAX: "",
      MUSTER_LOUD: "true",
      MUSTER_OTHER: "x",
    });
    const poolMax: number = values.MUSTER_POOL_MAX;
    const mode: "shadow" | "enforced" = values.AUTH_MODE;
    const note: string | undefined = values.MUSTER_NOTE;
    expect([poolMax, mode, note]).to.deep.equal([10, "enforced", undefined]);
    expect(values.MUSTER_LOUD).to.equal(true);
    expect(values.MUSTER_SHADOW_TENANT_ID).to.equal("shadow-tenant");
  });

  it("report every fault at once, with name, rule and value", () => {
    const wrong = {
      MUSTER_AMQP_URL: "localhost",
      AUTH_MODE: "off",
      MUSTER_POOL_MAX: "51",
      MUSTER_WAIT_MS: "1s",
      MUSTER_SHADOW_TENANT_ID: "acme",
    };
    const { faults, message } = faultsOf(wrong);
    expect(faults.map(({ name }) => name)).to.deep.equal([
      "MUSTER_AMQP_URL",
      "MUSTER_DATABASE_URL",
      "AUTH_MODE",
      "MUSTER_SHADOW_TENANT_ID",
      "MUSTER_POOL_MAX",
      "MUSTER_WAIT_MS",
      "MUSTER_API_SECRET",
    ]);
    expect(message).to.include('MUSTER_POOL_MAX: must be a whole number from 1 to 50; is "51"');
    expect(message).to.include('AUTH_MODE: must be one of shadow, enforced; is "off"');
    expect(message).to.include("MUSTER_API_SECRET: must be set");
    expect(message).to.include(
      "MUSTER_SHADOW_TENANT_ID: must begin with shadow-, as no real tenant's id does",
    );
  });

  it("never show a secret: not in faults, not in the configuration printed", () => {
    const wrong = { ...good, MUSTER_AMQP_URL: "http://user:canary@x", MUSTER_DATABASE_URL: "canary" };
    expect(faultsOf(wrong).message).to.not.include("canary");
    const printed = printSettings(settings, good);
    expect(printed).to.not.include("canary");
    expect(printed).to.include("amqp://user:***@localhost:5672/muster");
    expect(masked("https://x.example/a?token=canary")).to.equal("https://x.example/a?***");
  });

  it("are printed with their sources", () => {
    const printed = printSettings(settings, { ...good, MUSTER_POOL_MAX: "7" });
    expect(printed).to.match(/^MUSTER_POOL_MAX="7" {2}# env/m);
    expect(printed).to.match(/^MUSTER_WAIT_MS="100" {2}# default/m);
    expect(printed).to.match(/^MUSTER_NOTE= {2}# unset/m);
  });

  it("of numbers take plain digits only", () => {
    for (const odd of ["1e1", "0x5", " 5", "5.0", "five", "99999999999999999999"]) {
      expect(faultsOf({ ...good, MUSTER_POOL_MAX: odd }).faults, odd).to.have.length(1);
    }
  });

  it("make an example file that has each variable once, says what is required, and reads back as the defaults", () => {
    const example = envExampleOf({
      gateway: { ...commonSettings, MUSTER_AMQP_URL: amqpUrl },
      "vm-ops": { ...commonSettings, ...settings, MUSTER_KIND: choice(["a", "b"], { help: "Which" }) },
    });
    expect(example.match(/MUSTER_AMQP_URL=/g)).to.have.length(1);
    expect(example).to.include("Required. Also: vm-ops.\n# MUSTER_AMQP_URL=\n");
    expect(example).to.include("# MUSTER_POOL_MAX=10\n").and.include("A note. Optional.");
    const uncommented = [...example.matchAll(/^# (MUSTER_[A-Z_]+)=(.+)$/gm)].map(([, name, value]) => [
      name!,
      value!,
    ]);
    const defaults = Object.fromEntries(uncommented) as Record<string, string>;
    expect(readSettings(commonSettings, defaults)).to.deep.equal(readSettings(commonSettings, {}));
  });
});
