import { z } from "zod";

/** Names a secret of a tenant; the vault keeps it by id, so a name is of no meaning there. */
export const secretName = z
  .string()
  .regex(
    /^[A-Za-z][A-Za-z0-9_.-]{0,127}$/,
    "must be a letter and then at most 127 of A-Z, a-z, 0-9, _, . and -",
  );
export const secretField = z
  .string()
  .regex(/^[A-Za-z0-9_.-]{1,64}$/, "must be 1 to 64 of A-Z, a-z, 0-9, _, . and -");
export const secretVersion = z.number().int().min(1).max(1_000_000);

/** Most references that one command may name. */
export const secretReferencesMax = 32;

const scheme = "secret://";
/** A reference to what is in no vault: there is no such thing here, in any mode. */
const refusedScheme = "local-vault://";
const form =
  /^secret:\/\/([A-Za-z][A-Za-z0-9_.-]{0,127})(?:#([A-Za-z0-9_.-]{1,64}))?(?:@([1-9][0-9]{0,5}))?$/;

/** `secret://name[#field][@version]`: all of a secret that is ever stored, logged or sent in clear. */
export const secretReference = z
  .string()
  .regex(form, "must be secret://name, with #field and @version where they are needed");

export interface SecretReference {
  readonly name: string;
  /** Without it the secret's only field. */
  readonly field: string | undefined;
  /** Without it the version that is current when the command starts. */
  readonly version: number | undefined;
}

/** Undefined for what is no reference. */
export function parseReference(text: string): SecretReference | undefined {
  const [, name, field, version] = form.exec(text) ?? [];
  if (name === undefined) return undefined;
  return { name, field, version: version === undefined ? undefined : Number(version) };
}

/** Text that is a reference is a well-formed one, and of ours. */
export const isNoBadReference = (text: string): boolean =>
  !text.startsWith(refusedScheme) && (!text.startsWith(scheme) || parseReference(text) !== undefined);

/** Every reference that the params of a command name, each once: in `secrets`, as a variable's whole value, and as `stdin`. */
export function referencesOf(params: Readonly<Record<string, unknown>>): string[] {
  const { secrets, env, stdin } = params;
  const values = [
    ...(Array.isArray(secrets) ? (secrets as unknown[]) : []),
    ...(typeof env === "object" && env !== null ? (Object.values(env) as unknown[]) : []),
    stdin,
  ];
  const isReference = (value: unknown): value is string =>
    typeof value === "string" && parseReference(value) !== undefined;
  return [...new Set(values.filter(isReference))];
}
