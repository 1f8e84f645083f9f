/** Inline styles only: no script, no font, nothing from elsewhere. */
export const docsPolicy =
  "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'";

type Json = Readonly<Record<string, unknown>>;

const style = `
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --line: #d0d7de; --page: #fff; --panel: #f6f8fa; --link: #0550ae; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9198a1; --line: #3d444d; --page: #0d1117; --panel: #151b23; --link: #79c0ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
a { color: var(--link); }
code, pre { font: 0.875em/1.45 ui-monospace, monospace; }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 6px; padding: 0.75rem; overflow-x: auto; overflow-wrap: normal; }
nav ul { columns: 18rem; padding-left: 1rem; }
section { border-top: 1px solid var(--line); padding: 0.5rem 0; }
h2 { margin-top: 2.5rem; }
h3 { margin-bottom: 0.25rem; font-size: 1.05rem; }
table { display: block; overflow-x: auto; border-collapse: collapse; max-width: 100%; }
th, td { text-align: left; vertical-align: top; padding: 0.25rem 0.75rem 0.25rem 0; border-bottom: 1px solid var(--line); overflow-wrap: normal; }
.method { display: inline-block; min-width: 4.5em; font-weight: 700; }
.soft { color: var(--soft); }
summary { cursor: pointer; }
`;

interface Entry {
  readonly path: string;
  readonly method: string;
  readonly operation: Json;
}

/** A readable reference of an OpenAPI document: one static page, every text of the document escaped. */
export function docsHtml(openapi: Json): string {
  const info = objectOf(openapi["info"]);
  const title = `${textOf(info["title"])} ${textOf(info["version"])}`;
  const entries = entriesOf(openapi);
  const tags = [...new Set(entries.map(tagOf))];
  const nav = tags.map((tag) => `<li><a href="#tag-${escape(tag)}">${escape(tag)}</a></li>`).join("");
  const groups = tags.map((tag) => {
    const sections = entries.filter((entry) => tagOf(entry) === tag).map((entry) => section(entry, openapi));
    return `<h2 id="tag-${escape(tag)}">${escape(tag)}</h2>${sections.join("")}`;
  });
  const head = `<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>${escape(title)}</title><style>${style}</style>`;
  const lead = `<h1>${escape(title)}</h1><p>${escape(textOf(info["description"]))}</p><p><a href="/api/v1/openapi.json">OpenAPI document</a></p>`;
  return `<!doctype html><html lang="en"><head>${head}</head><body><header>${lead}</header><nav aria-label="Topics"><ul>${nav}</ul></nav><main>${groups.join("")}</main></body></html>`;
}

function entriesOf(openapi: Json): Entry[] {
  return Object.entries(objectOf(openapi["paths"])).flatMap(([path, item]) =>
    Object.entries(objectOf(item)).map(([method, operation]) => ({
      path,
      method,
      operation: objectOf(operation),
    })),
  );
}

function tagOf({ operation }: Entry): string {
  return textOf(listOf(operation["tags"])[0]) || "other";
}

function section({ path, method, operation }: Entry, openapi: Json): string {
  const id = escape(textOf(operation["operationId"]));
  const access = textOf(operation["x-access"]);
  const open = { public: "public", credentials: "by credentials of its own", any: "any principal" };
  const who = new Map(Object.entries(open)).get(access) ?? `role ${access}`;
  return [
    `<section id="${id}"><h3><span class="method">${escape(method.toUpperCase())}</span> <code>${escape(path)}</code></h3>`,
    `<p>${escape(textOf(operation["summary"]))} <span class="soft">(${escape(who)})</span></p>`,
    parameterTable(listOf(operation["parameters"]), openapi),
    schemaBlock("Body", objectOf(operation["requestBody"])),
    responses(objectOf(operation["responses"])),
    `</section>`,
  ].join("");
}

function parameterTable(parameters: readonly unknown[], openapi: Json): string {
  if (parameters.length === 0) return "";
  const rows = parameters.map((given) => {
    const parameter = resolved(objectOf(given), openapi);
    const need = parameter["required"] === true ? "required" : "optional";
    const cells = [
      `<code>${escape(textOf(parameter["name"]))}</code>`,
      `${escape(textOf(parameter["in"]))}, ${need}`,
      escape(textOf(parameter["description"])),
      `<code>${escape(JSON.stringify(parameter["schema"] ?? {}))}</code>`,
    ];
    return `<tr>${cells.map((cell) => `<td>${cell}</td>`).join("")}</tr>`;
  });
  const heads = ["name", "where", "what", "schema"].map((head) => `<th scope="col">${head}</th>`).join("");
  return `<details><summary>Parameters</summary><table><thead><tr>${heads}</tr></thead><tbody>${rows.join("")}</tbody></table></details>`;
}

function responses(byStatus: Json): string {
  return Object.entries(byStatus)
    .map(([status, given]) => {
      const response = objectOf(given);
      if (status.startsWith("2")) return schemaBlock(`Answer ${status}`, response);
      const codes = Object.keys(
        objectOf(objectOf(objectOf(response["content"])["application/json"])["examples"]),
      );
      return `<p class="soft">${escape(status)}: ${codes.map((code) => `<code>${escape(code)}</code>`).join(", ")}</p>`;
    })
    .join("");
}

function schemaBlock(label: string, holder: Json): string {
  const contents = Object.entries(objectOf(holder["content"]));
  if (contents.length === 0) return label.startsWith("Answer") ? `<p class="soft">${escape(label)}</p>` : "";
  return contents
    .map(([type, content]) => {
      const text = JSON.stringify(objectOf(content)["schema"] ?? {}, null, 2);
      return `<details><summary>${escape(label)}: <code>${escape(type)}</code></summary><pre tabindex="0">${escape(text)}</pre></details>`;
    })
    .join("");
}

function resolved(part: Json, openapi: Json): Json {
  const ref = part["$ref"];
  if (typeof ref !== "string") return part;
  const steps = ref.replace(/^#\//, "").split("/");
  return steps.reduce<Json>((at, step) => objectOf(at[step]), openapi);
}

function objectOf(value: unknown): Json {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Json) : {};
}

function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

function textOf(value: unknown): string {
  return typeof value === "string" ? value : "";
}

function escape(text: string): string {
  return text
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;")
    .replaceAll("'", "&#39;");
}
