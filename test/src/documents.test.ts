import { existsSync, readFileSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { execFileSync } from "node:child_process";
import { describe, it } from "mocha";
import { expect } from "chai";
import { reasons } from "@muster/contracts/commands";
import { errorCodes } from "@muster/contracts/errors";
import { repository } from "./processes.ts";

const tracked = execFileSync("git", ["ls-files"], { cwd: repository, encoding: "utf8" }).trim().split("\n");
const documents = tracked.filter((path) => path.endsWith(".md"));
const textOf = (path: string): string => readFileSync(join(repository, path), "utf8");
const headings = (text: string): string[] => [...text.matchAll(/^### (\S+)$/gm)].map((match) => match[1]!);
const anchorOf = (heading: string): string =>
  heading
    .toLowerCase()
    .replace(/[^\p{L}\p{N} _-]/gu, "")
    .replaceAll(" ", "-");

describe("the documents", () => {
  it("have one section for each error code, and for nothing that is not one", () => {
    const sections = headings(textOf("docs/failure-modes.md"));
    const codes = sections.filter((section) => /^[A-Z_]+$/.test(section));
    expect(codes.sort()).to.deep.equal(Object.keys(errorCodes).sort());
    const others = sections.filter((section) => !/^[A-Z_]+$/.test(section));
    for (const section of others) expect(reasons).to.include(section);
  });

  for (const path of documents) {
    it(`${path} links only to what is there`, () => {
      const text = textOf(path);
      for (const [, target] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
        if (/^[a-z]+:/.test(target!)) continue;
        const [file, anchor] = target!.split("#");
        const full = file === "" ? join(repository, path) : join(repository, dirname(path), file!);
        expect(existsSync(full), `${path} → ${target}`).to.equal(true);
        if (anchor === undefined) continue;
        const anchors = [...readFileSync(full, "utf8").matchAll(/^#+ (.+)$/gm)].map((match) =>
          anchorOf(match[1]!),
        );
        expect(anchors, `${path} → ${target}`).to.include(anchor);
      }
    });

    it(`${path} names only paths that exist`, () => {
      const top = /`((?:services|shared|agent|scripts|docs|test|infra)\/[A-Za-z0-9_./-]+)`/g;
      for (const [, named] of textOf(path).matchAll(top)) {
        expect(existsSync(join(repository, named!)), `${path} names ${named}`).to.equal(true);
      }
    });
  }

  it("have a README for every service and package", () => {
    for (const group of ["services", "shared"]) {
      for (const name of readdirSync(join(repository, group))) {
        expect(existsSync(join(repository, group, name, "README.md")), `${group}/${name}`).to.equal(true);
      }
    }
    expect(existsSync(join(repository, "agent/README.md"))).to.equal(true);
  });

  for (const [path, rowsMin] of Object.entries({
    "docs/invariants.md": 15,
    "docs/dispatch-failures.md": 40,
    "docs/rfc-8725.md": 40,
  })) {
    it(`${path} names tests that exist under the names that are given`, () => {
      const rows = [...textOf(path).matchAll(/^\| [^|]+ \|(?: [^|]+ \|)*$/gm)].map(([row]) => row);
      const proofs = rows.flatMap((row) => [...row.matchAll(/`([^`]+\.test\.ts)`: ([^;|]+)/g)]);
      expect(proofs.length).to.be.at.least(rowsMin);
      for (const [, file, name] of proofs) {
        expect(existsSync(join(repository, file!)), file).to.equal(true);
        expect(textOf(file!), `${file} has no test named "${name!.trim()}"`).to.contain(name!.trim());
      }
    });
  }

  it("docs/dispatch-failures.md says for every failure what proves it or what it waits for", () => {
    const rows = [
      ...textOf("docs/dispatch-failures.md").matchAll(/^\| (?!failure|-)[^|]+ \|(?: [^|]+ \|)+$/gm),
    ];
    const [proved, waiting] = [
      rows.filter(([row]) => row.includes(".test.ts`: ")),
      rows.filter(([row]) => !row.includes(".test.ts")),
    ];
    expect(proved.length + waiting.length).to.equal(rows.length);
    for (const [row] of waiting) expect(row.split("|"), row).to.have.length(4);
  });

  it("show only scripts that exist", () => {
    for (const path of documents) {
      for (const [, script] of textOf(path).matchAll(/\.\/scripts\/([a-z-]+)/g)) {
        expect(existsSync(join(repository, "scripts", script!)), `${path}: scripts/${script}`).to.equal(true);
      }
    }
  });
});
