import type { Asked, Said } from "./faulty-http.ts";

interface Version {
  data: Record<string, unknown> | null;
  deletionTime: string;
  destroyed: boolean;
}
interface Entry {
  current: number;
  versions: Map<number, Version>;
}

export const refusal = (status: number, ...errors: string[]): Said => ({ status, body: { errors } });
/** What Vault wraps everything in. */
export const wrapped = (data: unknown, warnings: string[] | null = null) => ({
  request_id: "0ab1c2d3-0000-0000-0000-000000000000",
  lease_id: "",
  renewable: false,
  lease_duration: 0,
  data,
  wrap_info: null,
  warnings,
  auth: null,
});

const metadataOf = (version: Version, number: number) => ({
  created_time: "2026-01-01T00:00:00.000000000Z",
  custom_metadata: null,
  deletion_time: version.deletionTime,
  destroyed: version.destroyed,
  version: number,
});

/** One mount of KV version 2, as Vault's plugin answers (path_data.go, path_metadata.go, path_delete.go, path_destroy.go). */
export class KeyValueEngine {
  readonly #entries = new Map<string, Entry>();

  get paths(): string[] {
    return [...this.#entries.keys()];
  }

  answer(method: string, part: string, path: string, asked: Asked): Said {
    if (part === "data" && method === "GET") return this.#read(path, Number(asked.query.get("version") ?? 0));
    if (part === "data" && (method === "POST" || method === "PUT")) return this.#write(path, asked.body);
    if (part === "data" && method === "DELETE")
      return this.#delete(path, [this.#entries.get(path)?.current ?? 0]);
    if (part === "delete" && method === "POST") return this.#delete(path, versionsOf(asked.body));
    if (part === "destroy" && method === "PUT") return this.#destroy(path, versionsOf(asked.body));
    if (part === "metadata" && method === "DELETE") {
      this.#entries.delete(path);
      return { status: 204 };
    }
    return refusal(405, "1 error occurred:\n\t* unsupported operation\n\n");
  }

  #read(path: string, asked: number): Said {
    const entry = this.#entries.get(path);
    const number = asked === 0 ? (entry?.current ?? 0) : asked;
    const version = entry?.versions.get(number);
    if (version === undefined) return refusal(404);
    const metadata = metadataOf(version, number);
    if (version.destroyed || version.deletionTime !== "") {
      return { status: 404, body: wrapped({ data: null, metadata }) };
    }
    return { status: 200, body: wrapped({ data: version.data, metadata }) };
  }

  #write(path: string, body: unknown): Said {
    const { data, options } = body as { data?: Record<string, unknown>; options?: { cas?: number } };
    if (data === undefined) return refusal(400, "no data provided");
    const entry = this.#entries.get(path) ?? { current: 0, versions: new Map<number, Version>() };
    if (options?.cas !== undefined && options.cas !== entry.current) {
      return refusal(400, "check-and-set parameter did not match the current version");
    }
    const version = { data, deletionTime: "", destroyed: false };
    entry.current += 1;
    entry.versions.set(entry.current, version);
    this.#entries.set(path, entry);
    return { status: 200, body: wrapped(metadataOf(version, entry.current)) };
  }

  #delete(path: string, numbers: readonly number[]): Said {
    const versions = this.#entries.get(path)?.versions;
    for (const number of numbers) {
      const version = versions?.get(number);
      if (version !== undefined) version.deletionTime = "2026-01-02T00:00:00.000000000Z";
    }
    return { status: 204 };
  }

  #destroy(path: string, numbers: readonly number[]): Said {
    const versions = this.#entries.get(path)?.versions;
    for (const number of numbers) {
      const version = versions?.get(number);
      if (version !== undefined) Object.assign(version, { destroyed: true, data: null });
    }
    return { status: 204 };
  }
}

function versionsOf(body: unknown): number[] {
  return (body as { versions?: (number | string)[] }).versions?.map(Number) ?? [];
}
