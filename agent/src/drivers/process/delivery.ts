import { referencesOf } from "@muster/contracts/secret-references";
import type { ResolvedSecrets } from "@muster/contracts/secret-reports";
import { StartRefused } from "../driver.ts";
import { markerName, secretsDirName } from "./run-folder.ts";

/** Of all values of a run together: the supervisor keeps what masks them for as long as the program runs. */
const secretBytesMax = 512 * 1024;
const ours: ReadonlySet<string> = new Set(["MUSTER_COMMAND_ID", markerName, secretsDirName]);

interface Around {
  readonly env?: Readonly<Record<string, string>> | undefined;
  readonly stdin?: string | undefined;
  readonly secrets?: readonly string[] | undefined;
}

/** What reaches a program, and in which way. */
export interface Delivery {
  readonly env: Record<string, string>;
  readonly stdin: string | undefined;
  /** Undefined where the params name no reference. Paths are file names in the run's own folder, or absolute. */
  readonly secret:
    | {
        readonly env: Record<string, string>;
        readonly stdin: string | undefined;
        readonly files: readonly { readonly path: string; readonly value: string }[];
      }
    | undefined;
}

const refused = (why: string): StartRefused => new StartRefused("secret_refused", why);

/**
 * Puts secrets where the params name them, and the others where their bindings say. Throws StartRefused (`secret_refused`) where
 * two things would be in one place; its text has references and places, no value.
 */
export function deliveryOf(
  { env = {}, stdin, secrets = [] }: Around,
  resolved: ResolvedSecrets = [],
): Delivery {
  const named = referencesOf({ env, stdin, secrets });
  if (named.length === 0) return { env: { ...env }, stdin, secret: undefined };
  const byReference = new Map(resolved.map((one) => [one.reference, one]));
  const places = new Places();
  const oneOf = (reference: string): ResolvedSecrets[number] => {
    const one = byReference.get(reference);
    if (one === undefined) throw refused(`${reference} was not given to the command`);
    return one;
  };
  const plain: Record<string, string> = {};
  for (const [name, value] of Object.entries(env)) {
    if (named.includes(value)) places.env(name, value, oneOf(value).value);
    else plain[name] = value;
  }
  if (stdin !== undefined && named.includes(stdin)) places.stdin(stdin, oneOf(stdin).value);
  for (const reference of new Set(secrets)) {
    const { value, as } = oneOf(reference);
    if ("env" in as) {
      if (Object.hasOwn(plain, as.env)) throw refused(`${reference} is for ${as.env}, which has a value`);
      places.env(as.env, reference, value);
    } else if ("file" in as) places.file(as.file, reference, value);
    else {
      if (stdin !== undefined && !named.includes(stdin))
        throw refused(`${reference} is for stdin, which has a text`);
      places.stdin(reference, value);
    }
  }
  const bytes = resolved.reduce((sum, { value }) => sum + Buffer.byteLength(value), 0);
  if (bytes > secretBytesMax)
    throw refused(`the secrets have ${bytes} bytes, and may have ${secretBytesMax}`);
  return { env: plain, stdin: places.hasStdin ? undefined : stdin, secret: places.taken() };
}

/** Each place takes one reference; the same one again changes nothing. */
class Places {
  readonly #references = new Map<string, string>();
  readonly #env: Record<string, string> = {};
  readonly #files: { path: string; value: string }[] = [];
  #stdin: string | undefined;

  get hasStdin(): boolean {
    return this.#stdin !== undefined;
  }

  /** True when the place was free. */
  #take(place: string, reference: string): boolean {
    const holder = this.#references.get(place);
    if (holder !== undefined && holder !== reference) {
      throw refused(`${holder} and ${reference} are both for ${place}`);
    }
    this.#references.set(place, reference);
    return holder === undefined;
  }

  env(name: string, reference: string, value: string): void {
    if (ours.has(name)) throw refused(`${reference} is for ${name}, which the agent sets itself`);
    if (this.#take(`the variable ${name}`, reference)) this.#env[name] = value;
  }

  file(path: string, reference: string, value: string): void {
    if (this.#take(`the file ${path}`, reference)) this.#files.push({ path, value });
  }

  stdin(reference: string, value: string): void {
    if (this.#take("stdin", reference)) this.#stdin = value;
  }

  taken(): Delivery["secret"] {
    return { env: this.#env, stdin: this.#stdin, files: this.#files };
  }
}
