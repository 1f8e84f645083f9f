import { copyFileSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { describe, it } from "mocha";
import { markerOf } from "../system/files.ts";
import { defaultRoots, findRabbit } from "./binaries.ts";
import { cleanEnvironment } from "./choose.ts";
import { openPrivateRabbit } from "./rabbitmq.ts";

const repository = join(import.meta.dirname, "..", "..", "..", "..");

/** The lines of a block of text in a manifest, without their indentation. */
function blockOf(manifest: string, key: string): string {
  const lines = manifest.split("\n");
  const from = lines.findIndex((line) => line.trim() === `${key}: |`) + 1;
  const indent = /^ */.exec(lines[from] ?? "")?.[0] ?? "";
  const length = lines.slice(from).findIndex((line) => line !== "" && !line.startsWith(indent));
  return lines
    .slice(from, length === -1 ? undefined : from + length)
    .map((line) => line.slice(indent.length))
    .join("\n");
}

describe("the broker of k8s/", function () {
  this.timeout(120_000);

  it("starts with the configuration that is there, and asks whoever has no password for a token", async function () {
    const env = { PATH: process.env["PATH"] };
    const roots = defaultRoots(env);
    const binaries = findRabbit(roots);
    // Where the tests' broker was given by its address there may be none.
    if (binaries === undefined) this.skip();
    const folder = mkdtempSync(join(realpathSync(tmpdir()), "muster-k8s-"));
    const config = blockOf(
      readFileSync(join(repository, "k8s/base/rabbitmq.yaml"), "utf8"),
      "additionalConfig",
    );
    expect(config).to.include("auth_oauth2.resource_server_id = muster-broker");
    // What the operator brings, and a file that this machine may not have.
    const here = config.split("\n").filter((line) => !/cacertfile|cluster_partition_handling/.test(line));
    writeFileSync(join(folder, "rabbitmq.conf"), here.join("\n"));
    copyFileSync(join(repository, "infra/rabbitmq/enabled_plugins"), join(folder, "enabled_plugins"));
    const broker = await openPrivateRabbit({
      ...{ folder, marker: markerOf(folder), binaries, password: "test", templates: folder },
      ...{ env: cleanEnvironment(roots, env), log: () => undefined },
    });
    try {
      await broker.start();
      const settings = await broker.control?.([
        "eval",
        "application:get_all_env(rabbitmq_auth_backend_oauth2).",
      ]);
      expect(settings)
        .to.include("muster-broker")
        .and.include("https://muster.example.org/.well-known/broker-jwks.json");
      expect(settings).to.include("EdDSA").and.include("verify_peer");
    } finally {
      await broker.stop();
      rmSync(folder, { recursive: true, force: true });
    }
  });
});
