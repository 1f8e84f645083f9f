import { mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { openSecrets } from "./secrets.ts";

describe("generated secrets", () => {
  it("stay the same for everybody who keeps theirs in one file, readable by its owner alone", () => {
    const folder = mkdtempSync(join(tmpdir(), "muster-secrets-"));
    try {
      const path = join(folder, "secrets.json");
      const [one, other] = [openSecrets(path), openSecrets(path)];
      const broker = one.get("broker");
      const role = other.get("role.auth");
      one.set("key", "k");
      const later = openSecrets(path);
      expect([later.get("broker"), later.get("role.auth"), later.find("key")]).to.deep.equal([
        broker,
        role,
        "k",
      ]);
      expect([one.isNew("broker"), later.isNew("broker")]).to.deep.equal([true, false]);
      expect(statSync(path).mode & 0o777).to.equal(0o600);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
});
