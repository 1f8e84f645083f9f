import { material } from "@muster/contracts/secrets";
import type { Material } from "@muster/contracts/secrets";
import { once } from "@muster/service/closing";
import type { Logger } from "@muster/telemetry/logger";
import { z } from "zod";
import { parsed, unexpected } from "../http/answers.ts";
import { openHttpClient } from "../http/client.ts";
import type { Answer, Ask, HttpClient } from "../http/client.ts";
import { textOf } from "../material.ts";
import { VaultError } from "../vault.ts";
import type { Place, Vault } from "../vault.ts";
import type { Credentials } from "./credentials.ts";
import { Session } from "./session.ts";

export interface HashicorpOptions {
  readonly address: string;
  /** Certificates in PEM; by default Node's own. */
  readonly ca?: string | undefined;
  readonly namespace?: string | undefined;
  readonly mount: string;
  readonly prefix: string;
  readonly credentials: Credentials;
  /** Of a login or a renewal, which is nobody's call. */
  readonly timeoutMs: number;
  readonly logger: Logger;
}

const kept = z.object({
  data: z.object({ data: material, metadata: z.object({ destroyed: z.literal(false) }) }),
});
const written = z.object({ data: z.object({ version: z.number().int() }) });
/** What Vault answers with 404 for a version that was deleted or destroyed (path_data.go), and for what it does not know. */
const gone = z.union([
  z.object({ data: z.object({ data: z.null(), metadata: z.object({ destroyed: z.boolean() }) }) }),
  z.object({ errors: z.array(z.string()) }),
]);
const errorTexts = z.object({ errors: z.array(z.string()) });
const health = z.object({ initialized: z.boolean(), sealed: z.boolean() });
const mountAnswer = z.object({
  data: z.object({ type: z.string(), options: z.record(z.string(), z.unknown()).nullish() }),
});

/** How Vault and OpenBao say that something is there although `cas` is 0; the status alone is that of any bad request. */
const casRefused = "check-and-set parameter did not match the current version";

/**
 * HashiCorp Vault and OpenBao, KV version 2. Each version of a secret is a path of its own, written with `cas: 0`: Vault's own count of
 * versions would follow the order in which writes arrive, and `max_versions` would drop the oldest.
 */
export function openHashicorpVault(o: HashicorpOptions): Vault {
  const http = openHttpClient({ base: o.address, ca: o.ca, userAgent: "muster-secrets" });
  const namespace = o.namespace === undefined ? {} : { "x-vault-namespace": o.namespace };
  // An agent or proxy in front of Vault may demand the second one.
  const headers = { ...namespace, "x-vault-request": "true" };
  const { credentials, timeoutMs, logger } = o;
  const session = new Session({ http, credentials, headers, timeoutMs, logger });
  const kv = new KeyValue({ http, session, headers, mount: o.mount, prefix: o.prefix });
  return {
    kind: "hashicorp",
    check: (signal) => kv.check(signal),
    write: (place, fields, signal) => kv.write(place, fields, signal),
    read: (place, signal) => kv.read(pathOf(place), signal),
    destroy: (place, signal) => kv.destroy(place, signal),
    close: once(async () => {
      await session.close();
      await http.close();
    }),
  };
}

const pathOf = ({ tenantId, secretId, version }: Place): string =>
  `${encodeURIComponent(tenantId)}/${encodeURIComponent(secretId)}/${version}`;

class KeyValue {
  readonly #http: HttpClient;
  readonly #session: Session;
  readonly #headers: Readonly<Record<string, string>>;
  readonly #mount: string;
  readonly #prefix: string;
  #mountSeen = false;

  constructor(o: {
    http: HttpClient;
    session: Session;
    headers: Readonly<Record<string, string>>;
    mount: string;
    prefix: string;
  }) {
    this.#http = o.http;
    this.#session = o.session;
    this.#headers = o.headers;
    this.#mount = o.mount;
    this.#prefix = o.prefix;
  }

  async check(signal: AbortSignal): Promise<void> {
    // Of the whole server: it is in no namespace. A standby passes on what it is asked.
    const path = "/v1/sys/health?standbyok=true&perfstandbyok=true";
    const answer = await this.#http.ask({
      method: "GET",
      path,
      headers: { "x-vault-request": "true" },
      signal,
    });
    if (answer.status !== 200) throw unexpected(answer, healthWords[answer.status]);
    const state = parsed(answer, health);
    if (!state.initialized || state.sealed) throw new VaultError("unavailable", "it is sealed");
    // Of a place that is never written: what may not be read is 403, another mount no plain 404.
    await this.read("muster-check", signal).catch((error: unknown) => {
      if (!(error instanceof VaultError && error.fault === "missing")) throw error;
    });
    await this.#seeMount(signal);
  }

  /** Version 1 takes the same paths for other things. Whoever may not see its mounts learns it by his first write. */
  async #seeMount(signal: AbortSignal): Promise<void> {
    if (this.#mountSeen) return;
    const answer = await this.#ask({
      method: "GET",
      path: `/v1/sys/internal/ui/mounts/${this.#mount}`,
      signal,
    });
    if (answer.status === 200) {
      const { data } = parsed(answer, mountAnswer);
      const version = data.options?.["version"];
      if (data.type !== "kv" || version !== "2") {
        throw new VaultError("refused", `what is mounted at ${this.#mount} is not KV version 2`);
      }
    } else if (answer.status !== 403 && answer.status !== 404) throw unexpected(answer);
    this.#mountSeen = true;
  }

  async write(place: Place, fields: Material, signal: AbortSignal): Promise<void> {
    const path = pathOf(place);
    const body = { options: { cas: 0 }, data: fields };
    const answer = await this.#ask({ method: "POST", path: this.#at("data", path), body, signal });
    if (answer.status === 200) {
      if (parsed(answer, written).data.version !== 1)
        throw new VaultError("garbled", "it wrote another version");
      return;
    }
    if (answer.status !== 400 || !isCasRefusal(answer)) throw unexpected(answer);
    const there = await this.read(path, signal).catch((error: unknown) => {
      if (error instanceof VaultError && error.fault === "missing") return undefined;
      throw error;
    });
    if (there === undefined)
      throw new VaultError("conflict", "what was there before was deleted in the vault");
    if (textOf(there) !== textOf(fields)) throw new VaultError("conflict", "other material is there");
  }

  async read(path: string, signal: AbortSignal): Promise<Material> {
    const answer = await this.#ask({ method: "GET", path: this.#at("data", path), signal });
    if (answer.status === 200) return parsed(answer, kept).data.data;
    if (answer.status === 404) throw goneFault(answer);
    throw unexpected(answer);
  }

  /** Its metadata, and so every version that Vault has of this path. */
  async destroy(place: Place, signal: AbortSignal): Promise<void> {
    const path = this.#at("metadata", pathOf(place));
    const answer = await this.#ask({ method: "DELETE", path, signal });
    if (answer.status === 204 || answer.status === 200) return;
    if (answer.status !== 404) throw unexpected(answer);
    const fault = goneFault(answer);
    if (fault.fault !== "missing") throw fault;
  }

  #at(part: "data" | "metadata", path: string): string {
    return `/v1/${this.#mount}/${part}/${this.#prefix}/${path}`;
  }

  /** A token that Vault does not know any more is replaced, once. */
  async #ask(asked: Omit<Ask, "headers">): Promise<Answer> {
    const send = (token: string) =>
      this.#http.ask({ ...asked, headers: { ...this.#headers, "x-vault-token": token } });
    const token = await this.#session.token(asked.signal);
    const answer = await send(token);
    if (answer.status !== 403) return answer;
    const another = await this.#session.replace(token, asked.signal);
    return another === undefined ? answer : await send(another);
  }
}

const healthWords: Readonly<Record<number, string>> = {
  429: ": a standby without an active node",
  472: ": a replica for disasters",
  501: ": it is not initialized",
  503: ": it is sealed",
};

function isCasRefusal(answer: Answer): boolean {
  const { errors } = parsed(answer, errorTexts);
  return errors.some((text) => text.includes(casRefused));
}

/** Unknown and destroyed is missing; a path that nothing is mounted at is our mistake. */
function goneFault(answer: Answer): VaultError {
  const body = parsed(answer, gone);
  if ("data" in body) return new VaultError("missing", "it was deleted in the vault");
  if (body.errors.length === 0) return new VaultError("missing", "it is not in the vault");
  return new VaultError(
    "refused",
    "nothing is mounted at this path; see MUSTER_SECRETS_VAULT_MOUNT and _NAMESPACE",
  );
}
