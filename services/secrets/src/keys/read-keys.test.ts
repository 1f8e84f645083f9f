import { randomBytes } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readSettings, SettingsError } from "@muster/service/settings";
import { expect } from "chai";
import { after, before, describe, it } from "mocha";
import { settings } from "../config.ts";
import { readKeys } from "./read-keys.ts";

const [one, two] = [randomBytes(32).toString("base64"), randomBytes(32).toString("base64")];
const name = "MUSTER_SECRETS_KEY_ENCRYPTION_KEY";
const needed = {
  MUSTER_AMQP_URL: "amqp://localhost",
  MUSTER_DATABASE_URL: "postgres://secrets:x@localhost/muster",
};

const read = async (env: Record<string, string>) => readKeys(readSettings(settings, { ...needed, ...env }));

async function refusal(env: Record<string, string>): Promise<string> {
  return await read(env).then(
    () => "none",
    (error: unknown) => {
      expect(error).to.be.instanceOf(SettingsError);
      const text = String(error);
      expect(text).to.not.include(one).and.to.not.include(two);
      return text;
    },
  );
}

describe("the key-encryption key", () => {
  let folder: string;
  before(async () => (folder = await mkdtemp(join(tmpdir(), "muster-kek-"))));
  after(async () => await rm(folder, { recursive: true }));

  it("comes from a variable, a file, or what a program prints, and is the same", async () => {
    const file = join(folder, "key");
    await writeFile(file, `${one}\n`);
    const ids = await Promise.all([
      read({ [name]: one }),
      read({ [`${name}_FILE`]: file }),
      read({ [`${name}_COMMAND`]: `cat ${file}` }),
    ]);
    expect(new Set(ids.map(({ current }) => current.id)).size).to.equal(1);
    expect(ids[0]?.all).to.have.length(1);
    const changing = await read({ [name]: two, [`${name}_PREVIOUS`]: one });
    expect(changing.previous?.id).to.equal(ids[0]?.current.id);
    expect(changing.all).to.have.length(2);
  });

  it("must be given exactly once, and be one", async () => {
    const file = join(folder, "none");
    await writeFile(file, "no key");
    const cases: [Record<string, string>, RegExp][] = [
      [{}, /exactly one of .*; not set/],
      [{ [name]: one, [`${name}_FILE`]: file }, /exactly one of/],
      [{ [name]: "short" }, /KEY_ENCRYPTION_KEY: must be 32 bytes in base64/],
      [{ [name]: `${one}x` }, /must be 32 bytes in base64/],
      [{ [`${name}_FILE`]: file }, /KEY_FILE: must give 32 bytes/],
      [
        { [`${name}_FILE`]: join(folder, "missing") },
        /KEY_FILE: must name a file that can be read \(ENOENT\)/,
      ],
      [{ [`${name}_COMMAND`]: "false" }, /KEY_COMMAND: must print the key .* it ended with 1/],
      [{ [`${name}_COMMAND`]: join(folder, "missing") }, /it ended with ENOENT/],
      [{ [`${name}_COMMAND`]: `cat ${file}` }, /KEY_COMMAND: must give 32 bytes/],
      // No shell: this prints the words.
      [{ [`${name}_COMMAND`]: "echo $HOME" }, /KEY_COMMAND: must give 32 bytes/],
      [{ [`${name}_COMMAND`]: "head -c 100000 /dev/zero" }, /ended with ERR_CHILD_PROCESS_STDIO_MAXBUFFER/],
      [{ [name]: one, [`${name}_PREVIOUS`]: one }, /PREVIOUS: must be another key/],
      [{ [name]: one, [`${name}_PREVIOUS`]: two, [`${name}_NEXT`]: two }, /NEXT: must be another key/],
    ];
    for (const [env, said] of cases) expect(await refusal(env)).to.match(said);
  });
});
