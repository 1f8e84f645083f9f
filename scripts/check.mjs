// npm run check: everything that can be said about the code without running it. All steps run; each says its verdict.
import { spawn } from "node:child_process";
import { join } from "node:path";

const root = join(import.meta.dirname, "..");
const bin = (...path) => join(root, "node_modules", ...path);
const compiled = (...path) => join(root, "scripts", "dist", "src", ...path);

const types = { name: "types", args: [bin("typescript7", "bin", "tsc"), "-b"] };
const lint = { name: "lint", args: [bin("eslint", "bin", "eslint.js"), "--max-warnings", "0", "."] };
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

async function oneByOne(steps) {
  const verdicts = [];
  for (const step of steps) verdicts.push(await run(step));
  return verdicts.every(Boolean);
}

// Lint is the slow one; what comes after the build runs beside it.
const typesOk = await run(types);
const [lintOk, othersOk] = await Promise.all([run(lint), oneByOne(others)]);
process.exitCode = typesOk && lintOk && othersOk ? 0 : 1;
