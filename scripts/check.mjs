// npm run check: everything that can be said about the code without running it. All steps run; each says its verdict.
import { spawn } from "node:child_process";
import { join } from "node:path";

const root = join(import.meta.dirname, "..");
const bin = (...path) => join(root, "node_modules", ...path);
const compiled = (...path) => join(root, "scripts", "dist", "src", ...path);

const types = { name: "types", args: [bin("typescript7", "bin", "tsc"), "-b"] };
/** The types of everything at once do not fit into one process's memory. */
const linted = ["services", "shared", "test"];
const lint = (name, ...args) => ({
  name: `lint ${name}`,
  args: [bin("eslint", "bin", "eslint.js"), "--max-warnings", "0", ...args],
});
const rest = linted.flatMap((folder) => ["--ignore-pattern", `${folder}/`]);
const lints = [...linted.map((folder) => lint(folder, folder)), lint("the rest", ".", ...rest)];
const others = [
  { name: "format", args: [bin("prettier", "bin", "prettier.cjs"), "--check", "--log-level", "warn", "."] },
  { name: "tidy", args: [compiled("check", "main.js")] },
  { name: "generated files", args: [compiled("generate", "main.js"), "--check"] },
];

function run({ name, args }) {
  const started = Date.now();
  return new Promise((resolve) => {
    const child = spawn(process.execPath, args, { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
    let output = "";
    child.stdout.on("data", (chunk) => (output += chunk));
    child.stderr.on("data", (chunk) => (output += chunk));
    child.once("error", (error) => (output += error.message));
    child.once("close", (code) => {
      const seconds = ((Date.now() - started) / 1_000).toFixed(1);
      process.stdout.write(`${code === 0 ? "ok    " : "FAIL  "} ${name} (${seconds} s)\n`);
      if (code !== 0) process.stdout.write(`${output.trimEnd()}\n`);
      resolve(code === 0);
    });
  });
}

// After the build two at a time: lint is the slow one, so the others go before the last of it.
const typesOk = await run(types);
const waiting = [...lints.slice(0, 1), ...others, ...lints.slice(1)];
const lane = async () => {
  const verdicts = [];
  for (let step = waiting.shift(); step !== undefined; step = waiting.shift()) verdicts.push(await run(step));
  return verdicts.every(Boolean);
};
const verdicts = await Promise.all([lane(), lane()]);
process.exitCode = typesOk && verdicts.every(Boolean) ? 0 : 1;
