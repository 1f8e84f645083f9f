import { z } from "zod";

/** One environment variable: how its text becomes a value. The variable's name is its key in a `Settings` record. */
export interface Setting<S extends z.ZodType = z.ZodType> {
  readonly schema: S;
  readonly help: string;
  /** Never printed; of a URL only the credentials are hidden. */
  readonly secret: boolean;
  /** Text, as if it stood in the environment. Without one, and unless the schema allows undefined, it must be set. */
  readonly default: string | undefined;
}

export type Settings = Readonly<Record<string, Setting>>;
export type Values<T extends Settings> = { readonly [K in keyof T]: z.output<T[K]["schema"]> };
export type Environment = Readonly<Record<string, string | undefined>>;

export function setting<S extends z.ZodType>(o: {
  schema: S;
  help: string;
  secret?: boolean;
  default?: string;
}): Setting<S> {
  return Object.freeze({ schema: o.schema, help: o.help, secret: o.secret ?? false, default: o.default });
}

export function text(o: { help: string; default?: string; secret?: boolean; lengthMax?: number }) {
  return setting({
    ...o,
    schema: z
      .string()
      .min(1)
      .max(o.lengthMax ?? 1_024),
  });
}

/** Decimal digits only; `unit` is for the reader. */
export function integer(o: { help: string; min: number; max: number; default?: number; unit?: string }) {
  const rule = `must be a whole number from ${o.min} to ${o.max}${o.unit === undefined ? "" : ` ${o.unit}`}`;
  const schema = z
    .string()
    .regex(/^-?[0-9]{1,15}$/, rule)
    .transform(Number)
    .refine((value) => value >= o.min && value <= o.max, rule);
  return setting({
    schema,
    help: o.unit === undefined ? o.help : `${o.help} (${o.unit})`,
    ...(o.default === undefined ? {} : { default: String(o.default) }),
  });
}

/** Milliseconds; the variable's name ends in _MS. */
export function duration(o: { help: string; min: number; max: number; default?: number }) {
  return integer({ ...o, unit: "ms" });
}

export function choice<const V extends readonly [string, ...string[]]>(
  values: V,
  o: { help: string; default?: V[number] },
) {
  return setting({ ...o, schema: z.enum(values, `must be one of ${values.join(", ")}`) });
}

export function flag(o: { help: string; default?: boolean }) {
  const schema = z.enum(["true", "false"], "must be true or false").transform((value) => value === "true");
  return setting({
    schema,
    help: o.help,
    ...(o.default === undefined ? {} : { default: String(o.default) }),
  });
}

/** A URL of one of these schemes, kept as text. */
export function url(o: { help: string; schemes: readonly string[]; default?: string; secret?: boolean }) {
  const rule = `must be a URL starting with ${o.schemes.map((scheme) => `${scheme}://`).join(" or ")}`;
  const fits = (value: string) => {
    const parsed = parseUrl(value);
    return parsed !== null && o.schemes.includes(parsed.protocol.slice(0, -1)) && parsed.hostname !== "";
  };
  const { schemes: _schemes, ...rest } = o;
  return setting({ ...rest, schema: z.string().max(2_048).refine(fits, rule) });
}

function parseUrl(value: string): URL | null {
  try {
    return new URL(value);
  } catch {
    return null;
  }
}

export interface SettingFault {
  readonly name: string;
  readonly rule: string;
  /** As given, or masked; undefined when not set. */
  readonly value: string | undefined;
}

/** Every fault of the environment at once. */
export class SettingsError extends Error {
  override readonly name = "SettingsError";
  readonly faults: readonly SettingFault[];

  constructor(faults: readonly SettingFault[]) {
    const lines = faults.map(
      ({ name, rule, value }) =>
        `  ${name}: ${rule}; ${value === undefined ? "not set" : `is ${quoted(value)}`}`,
    );
    super(["These settings are wrong:", ...lines].join("\n"));
    this.faults = faults;
  }
}

/** Text to values; empty text counts as unset. Throws SettingsError with every fault. */
export function readSettings<T extends Settings>(settings: T, env: Environment): Values<T> {
  const faults: SettingFault[] = [];
  const values: Record<string, unknown> = {};
  for (const [name, one] of Object.entries(settings)) {
    const given = textOf(one, env[name]).text;
    if (given === undefined && !one.schema.safeParse(undefined).success) {
      faults.push({ name, rule: `must be set: ${one.help}`, value: undefined });
      continue;
    }
    const parsed = one.schema.safeParse(given);
    if (parsed.success) values[name] = parsed.data;
    else {
      const rule = [...new Set(parsed.error.issues.map((issue) => issue.message))].join("; ");
      faults.push({ name, rule, value: shown(one, given) });
    }
  }
  if (faults.length > 0) throw new SettingsError(faults);
  return values as Values<T>;
}

function textOf(
  one: Setting,
  given: string | undefined,
): { text: string | undefined; source: "env" | "default" } {
  return given === undefined || given === ""
    ? { text: one.default, source: "default" }
    : { text: given, source: "env" };
}

function shown(one: Setting, value: string | undefined): string | undefined {
  return value === undefined || !one.secret ? value : masked(value);
}

/** Of a URL the credentials go, of anything else everything. */
export function masked(value: string): string {
  const parsed = parseUrl(value);
  if (parsed === null || parsed.host === "") return "***";
  const search = parsed.search === "" ? "" : "?***";
  const user = parsed.username === "" ? "" : `${parsed.username}:***@`;
  return `${parsed.protocol}//${user}${parsed.host}${parsed.pathname}${search}`;
}

/** One line per setting: name, text in force, where it came from, help. Secrets masked. */
export function printSettings(settings: Settings, env: Environment): string {
  const lines = Object.entries(settings).map(([name, one]) => {
    const { text: inForce, source } = textOf(one, env[name]);
    const value = shown(one, inForce);
    return `${name}=${value === undefined ? "" : quoted(value)}  # ${value === undefined ? "unset" : source}: ${one.help}`;
  });
  return `${lines.join("\n")}\n`;
}

function quoted(value: string): string {
  const short = value.length > 200 ? `${value.slice(0, 200)}…` : value;
  return JSON.stringify(short);
}

/** The text of `.env.example`: each variable once, under the first service that declares it. */
export function envExampleOf(services: Readonly<Record<string, Settings>>): string {
  const users = new Map<string, string[]>();
  for (const [service, settings] of Object.entries(services)) {
    for (const name of Object.keys(settings)) users.set(name, [...(users.get(name) ?? []), service]);
  }
  const sections = Object.entries(services).map(([service, settings]) => {
    const own = Object.entries(settings).filter(([name]) => users.get(name)?.[0] === service);
    const entries = own.map(([name, one]) => {
      const also = (users.get(name) ?? []).slice(1);
      const use = also.length === 0 ? "" : ` Also: ${also.join(", ")}.`;
      const optional = one.schema.safeParse(undefined).success;
      const need = one.default !== undefined ? "" : optional ? " Optional." : " Required.";
      const assignment = one.default === undefined ? `# ${name}=` : `# ${name}=${one.default}`;
      return `# ${one.help.replace(/\.?$/, ".")}${need}${use}\n${assignment}\n`;
    });
    return entries.length === 0 ? "" : `## ${service}\n\n${entries.join("\n")}`;
  });
  return sections.filter((section) => section !== "").join("\n");
}
