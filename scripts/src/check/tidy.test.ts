import { expect } from "chai";
import {
  dependenciesAreTrue,
  documentsNameWhatExists,
  lockFileIsPublic,
  namesSaySomething,
  noBannedWords,
  noDeadFiles,
} from "./tidy.ts";

const manifest = (name: string, dependencies: readonly string[] = []): string =>
  JSON.stringify({ name, dependencies: Object.fromEntries(dependencies.map((one) => [one, "1.0.0"])) });

const base: [string, string][] = [
  ["package.json", JSON.stringify({ name: "root", devDependencies: { chai: "1.0.0" } })],
  ["shared/a/package.json", manifest("@muster/a", ["zod"])],
  ["shared/a/src/used.ts", 'import { z } from "zod";\nexport const x = z;'],
  ["services/b/package.json", manifest("@muster/b", ["@muster/a"])],
  ["services/b/src/main.ts", 'import { x } from "@muster/a/used";\nimport "./part.ts";\nx;'],
  ["services/b/src/part.ts", "export const y = 1;"],
];
const withFiles = (...files: [string, string][]): Map<string, string> => new Map([...base, ...files]);

describe("the tidy rules", () => {
  it("find nothing in a tidy checkout", () => {
    for (const rule of [noDeadFiles, dependenciesAreTrue, noBannedWords, namesSaySomething]) {
      expect(rule(withFiles())).to.deep.equal([]);
    }
  });

  it("find a file that nothing imports, names or starts", () => {
    const dead = noDeadFiles(withFiles(["services/b/src/left.ts", "export {};"]));
    expect(dead).to.have.length(1);
    const started: [string, string][] = [
      ["services/b/src/left.ts", "export {};"],
      ["services/b/src/starts.test.ts", 'spawn(node, ["left.js"]);'],
    ];
    expect(noDeadFiles(withFiles(...started))).to.deep.equal([]);
  });

  it("find an import that is not declared, and a declaration that is not imported", () => {
    const undeclared = withFiles(["services/b/src/part.ts", 'import pg from "pg";\npg;']);
    expect(dependenciesAreTrue(undeclared)[0]).to.contain("imports pg");
    const unused = withFiles(["shared/a/package.json", manifest("@muster/a", ["zod", "left-pad"])]);
    expect(dependenciesAreTrue(unused)[0]).to.contain("left-pad");
  });

  it("let tests use what the root declares for tests, and sources not", () => {
    const inTest = withFiles(["shared/a/src/used.test.ts", 'import { expect } from "chai";\nexpect;']);
    expect(dependenciesAreTrue(inTest)).to.deep.equal([]);
    const inSource = withFiles([
      "shared/a/src/used.ts",
      'import { z } from "zod";\nimport { expect } from "chai";',
    ]);
    expect(dependenciesAreTrue(inSource)).to.have.length(1);
  });

  it("find promises of later work and switched-off tests, with their line", () => {
    const later = ["TO", "DO"].join("");
    const faults = noBannedWords(
      withFiles(
        ["a.ts", `const ok = 1;\n// ${later} later`],
        ["b.test.ts", ["it", 'only("x", () => {});'].join(".")],
      ),
    );
    expect(faults.map((fault) => fault.split(": ")[0])).to.deep.equal(["a.ts:2", "b.test.ts:1"]);
  });

  it("find names that say nothing", () => {
    const vague = withFiles(["shared/a/src/utils/x.ts", ""], ["shared/a/src/index.ts", ""]);
    expect(namesSaySomething(vague)).to.have.length(2);
  });

  it("find a path in a document that is gone", () => {
    const text =
      "See `shared/a/src/used.ts`, `shared/a`, `services/b/dist/src/main.js` and `shared/gone.ts`.";
    expect(documentsNameWhatExists(withFiles(["README.md", text]))).to.deep.equal([
      "README.md: names shared/gone.ts, which is not there",
    ]);
  });

  it("find a lock file that points to a private registry", () => {
    const lock = {
      packages: {
        "": {},
        "node_modules/a": { resolved: "https://registry.npmjs.org/a/-/a-1.0.0.tgz" },
        "node_modules/@muster/b": { resolved: "services/b", link: true },
        "node_modules/c": { resolved: "http://localhost:4873/c.tgz" },
      },
    };
    const faults = lockFileIsPublic(withFiles(["package-lock.json", JSON.stringify(lock)]));
    expect(faults).to.have.length(1);
    expect(faults[0]).to.contain("node_modules/c");
  });
});
