// Prepares a fresh clone (packages from the lock file, build), then becomes the program that was asked for.
// It runs before anything is installed: Node's own modules only.
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { accessSync, appendFileSync, chmodSync, constants, existsSync, linkSync } from "node:fs";
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { pathToFileURL } from "node:url";

const root = join(import.meta.dirname, "..");
const state = join(root, ".muster");
const lockPath = join(state, "prepare.lock");
const logPath = join(state, "logs", "prepare.log");
const stampPath = join(root, "node_modules", ".muster-lock");
const graceMs = 1_500;
const exitBySignal = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 };

let running;
let stoppedBy;

const say = (line) => process.stderr.write(`${line}\n`);

function readOr(path) {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}

function parseOr(text) {
  try {
    return JSON.parse(text ?? "null");
  } catch {
    return null;
  }
}

/** Of a live process; undefined when it is gone. */
function startOf(pid) {
  const stat = readOr(`/proc/${pid}/stat`);
  if (stat === undefined) return undefined;
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return fields[0] === "Z" ? undefined : fields[19];
}

function holderOf(path) {
  const holder = parseOr(readOr(path));
  return holder !== null && startOf(holder.pid) === holder.started ? holder : undefined;
}

function removeStaleLock() {
  const aside = `${lockPath}.${process.pid}.stale`;
  try {
    renameSync(lockPath, aside);
    // A lock that was taken between our look and our move is put back.
    if (holderOf(aside) !== undefined) linkSync(aside, lockPath);
  } catch {
    // Another launcher moved it first, or has a new one: the next look tells.
  }
  rmSync(aside, { force: true });
}

async function withLock(work) {
  const candidate = `${lockPath}.${process.pid}`;
  let told = false;
  writeFileSync(candidate, JSON.stringify({ pid: process.pid, started: startOf(process.pid) }));
  try {
    for (;;) {
      try {
        linkSync(candidate, lockPath);
        break;
      } catch (error) {
        if (error.code !== "EEXIST") throw error;
      }
      const holder = holderOf(lockPath);
      if (holder === undefined) removeStaleLock();
      else {
        if (!told) say(`waiting for pid ${holder.pid}, which prepares this checkout`);
        told = true;
        await delay(200);
      }
    }
  } finally {
    rmSync(candidate, { force: true });
  }
  try {
    await work();
  } finally {
    if (holderOf(lockPath)?.pid === process.pid) rmSync(lockPath, { force: true });
  }
}

/** Everything that the lock file names for this platform is there in the named version. */
function installedFits(lock) {
  const wanted = parseOr(lock)?.packages ?? {};
  const installed = parseOr(readOr(join(root, "node_modules", ".package-lock.json")))?.packages;
  if (installed === undefined) return false;
  return Object.entries(wanted).every(
    ([path, entry]) =>
      !path.startsWith("node_modules/") ||
      entry.optional === true ||
      (installed[path] !== undefined && installed[path].version === entry.version),
  );
}

async function run(program, args, title, env = process.env) {
  appendFileSync(logPath, `\n$ ${program} ${args.join(" ")}\n`);
  const child = spawn(program, args, { cwd: root, env, detached: true, stdio: ["ignore", "pipe", "pipe"] });
  running = child;
  let output = "";
  const keep = (chunk) => {
    appendFileSync(logPath, chunk);
    output = (output + chunk).slice(-16_384);
  };
  child.stdout.on("data", keep);
  child.stderr.on("data", keep);
  const code = await new Promise((resolve, reject) => {
    const hint = program === "npm" ? "; npm comes with Node and must be on the PATH" : "";
    child.once("error", (cause) => reject(new Error(`could not start ${program}: ${cause.message}${hint}`)));
    child.once("close", (status) => resolve(status ?? 128));
  });
  running = undefined;
  if (stoppedBy !== undefined) throw new Error("stopped");
  if (code === 0) return;
  const tail = output.trimEnd().split("\n").slice(-25).join("\n");
  throw new Error(`${title} failed with exit ${code}; all of it is in ${logPath}\n${tail}`);
}

function npmEnvironment() {
  const home = process.env.HOME;
  try {
    accessSync(home ?? "", constants.W_OK);
    return process.env;
  } catch {
    return { ...process.env, npm_config_cache: join(state, "npm-cache") };
  }
}

async function install() {
  const lock = readFileSync(join(root, "package-lock.json"), "utf8");
  const hash = createHash("sha256").update(lock).digest("hex");
  if (readOr(stampPath) === hash) return;
  if (!installedFits(lock)) {
    say("installing npm packages from package-lock.json");
    rmSync(stampPath, { force: true });
    await run("npm", ["ci", "--include=dev", "--no-audit", "--no-fund"], "npm ci", npmEnvironment());
  }
  writeFileSync(stampPath, hash);
}

async function prepare() {
  mkdirSync(join(state, "logs"), { recursive: true, mode: 0o700 });
  // As root, the database's own user must get through to its data in there.
  chmodSync(state, process.getuid?.() === 0 ? 0o711 : 0o700);
  await withLock(async () => {
    await install();
    if (!existsSync(join(root, "scripts", "dist"))) say("building");
    const compiler = join(root, "node_modules", "typescript7", "bin", "tsc");
    // The system alone is enough to run it; tests need everything.
    const what = program === "test" ? [] : ["scripts"];
    await run(process.execPath, [compiler, "-b", ...what], "the build");
  });
}

function killRunning(name) {
  if (running === undefined) return;
  try {
    process.kill(-running.pid, name);
  } catch {
    // It has just ended.
  }
}

function onSignal(name) {
  if (stoppedBy === undefined) setTimeout(() => killRunning("SIGKILL"), graceMs).unref();
  stoppedBy = name;
  killRunning("SIGTERM");
  if (running === undefined) {
    if (holderOf(lockPath)?.pid === process.pid) rmSync(lockPath, { force: true });
    process.exit(exitBySignal[name]);
  }
}

/** What was built before is enough to stop or explain; a fresh clone has nothing to stop. */
function needsPreparation(program, args, entry) {
  const brief = ["--help", "-h", "--stop", "--reset"].some((option) => args.includes(option));
  return !(brief && program === "run" && existsSync(entry) && existsSync(join(root, "node_modules", "zod")));
}

const [program, ...args] = process.argv.slice(2);
const entry = join(root, "scripts", "dist", "src", program, "main.js");
for (const name of Object.keys(exitBySignal)) process.on(name, onSignal);
try {
  if (needsPreparation(program, args, entry)) await prepare();
  const { main } = await import(pathToFileURL(entry).href);
  for (const name of Object.keys(exitBySignal)) process.removeListener(name, onSignal);
  process.exitCode = await main(args, process.env);
} catch (error) {
  if (stoppedBy === undefined) say(`./scripts/${program}: ${error instanceof Error ? error.message : error}`);
  process.exitCode = stoppedBy === undefined ? 1 : exitBySignal[stoppedBy];
  // Whoever counts tests reads the last line.
  if (program === "test") process.stdout.write("0 passed, 1 failed\n");
}
