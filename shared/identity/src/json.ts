const pieces = /"[^"\\]*(?:\\.[^"\\]*)*"|[{}[\]:]/gs;

/**
 * What a JSON text in UTF-8 says, where it says one thing: a member that stands twice in one object is read one way by some
 * and another way by others. Throws for that and for whatever is no JSON.
 */
export function readJson(bytes: Uint8Array): unknown {
  const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  const value: unknown = JSON.parse(text);
  refuseDoubles(text);
  return value;
}

/** Of valid JSON: a colon outside of texts follows the name of a member. */
function refuseDoubles(json: string): void {
  const open: Set<string>[] = [];
  let before = "";
  for (const [piece] of json.matchAll(pieces)) {
    if (piece === "{" || piece === "[") open.push(new Set());
    else if (piece === "}" || piece === "]") open.pop();
    else if (piece === ":") {
      const name = String(JSON.parse(before));
      const names = open.at(-1);
      if (names?.has(name) === true) throw new SyntaxError("a member stands twice");
      names?.add(name);
    }
    before = piece;
  }
}
