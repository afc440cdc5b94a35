// The function that resolves and installs Node packages with npm.
//
// It runs in a sandbox of its own that reaches the registry and nothing else. The worker copies the
// installed files out with `read`.

import { spawn } from "node:child_process";
import { closeSync, existsSync, lstatSync, mkdirSync, openSync, readFileSync, readSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const HOME = "/tmp"; // the sandbox's own memory
const NPM = "/packages/bin/npm-cli.js";
const TREE = `${HOME}/tree`;
const TEXT_KEPT = 16 * 1024;
const CHUNK_BYTES = 4 * 1024 * 1024;

const files = [];

export async function handler(event) {
  return { resolve, install, read }[event.do](event);
}

/** Return `{lock: text}`, or `{failed: npm's error output}`. */
async function resolve(event) {
  writePackage(event.requirements);
  if (event.start) writeFileSync(`${TREE}/package-lock.json`, event.start);
  const failed = await npm(["install", "--package-lock-only"], event);
  return failed ? { failed } : { lock: readFileSync(`${TREE}/package-lock.json`, "utf8") };
}

/**
 * Install the packages of the lock, and nothing else.
 *
 * Returns `{files: [[path, size in bytes, executable], …]}`, or `{failed: npm's error output}`.
 */
async function install(event) {
  const lock = JSON.parse(event.lock);
  writePackage(lock.packages[""].dependencies ?? {});
  writeFileSync(`${TREE}/package-lock.json`, event.lock);
  const failed = await npm(["ci"], event);
  if (failed) return { failed };
  if (existsSync(`${TREE}/node_modules`)) listFiles(`${TREE}/node_modules`);
  return { files: files.map(({ path, size, executable }) => [path.slice(TREE.length + 1), size, executable]) };
}

/** Return at most CHUNK_BYTES from offset `at` of all files joined together, in base64. */
function read(event) {
  const chunk = Buffer.alloc(CHUNK_BYTES);
  let filled = 0;
  let begin = 0;
  for (const { path, size } of files) {
    if (filled === CHUNK_BYTES) break;
    if (size && begin + size > event.at + filled) {
      const descriptor = openSync(path, "r");
      filled += readSync(descriptor, chunk, filled, CHUNK_BYTES - filled, event.at + filled - begin);
      closeSync(descriptor);
    }
    begin += size;
  }
  return chunk.toString("base64", 0, filled);
}

function writePackage(dependencies) {
  mkdirSync(TREE, { recursive: true });
  writeFileSync(`${TREE}/package.json`, JSON.stringify({ name: "function", version: "0.0.0", private: true, dependencies }));
}

/** List plain files only: symbolic links would be meaningless outside this sandbox. */
function listFiles(folder) {
  for (const name of readdirSync(folder)) {
    const path = join(folder, name);
    const status = lstatSync(path);
    if (status.isDirectory()) listFiles(path);
    else if (status.isFile()) files.push({ path, size: status.size, executable: Boolean(status.mode & 0o100) });
  }
}

/**
 * Run npm; return its error output if it failed, else an empty string.
 *
 * Its lines are also printed as they arrive: the worker shows the last one as progress.
 */
function npm(args, event) {
  const scripts = event.source_builds ? [] : ["--ignore-scripts"];
  const command = [NPM, ...args, ...scripts, "--no-audit", "--no-fund", "--no-update-notifier", "--no-progress", "--omit=dev", "--loglevel=http"];
  return new Promise((done) => {
    const child = spawn(process.execPath, command, { cwd: TREE, env: environment(event), stdio: ["ignore", "ignore", "pipe"] });
    let text = "";
    child.stderr.on("data", (bytes) => {
      process.stderr.write(bytes);
      text = (text + bytes).slice(-TEXT_KEPT);
    });
    child.on("error", (error) => done(`npm cannot be started: ${error.message}`));
    child.on("close", (status, signal) => {
      if (status === 0) return done("");
      const errors = text.split("\n").filter((line) => /^npm (error|warn)/i.test(line) && !line.includes("/_logs/") && !line.includes("complete log"));
      done(errors.join("\n") || text.trim() || `npm ended with ${signal ?? status} and printed nothing`);
    });
  });
}

function environment(event) {
  const registry = event.index.endsWith("/") ? event.index : `${event.index}/`;
  const settings = { npm_config_cache: `${HOME}/cache`, npm_config_registry: registry, npm_config_userconfig: `${HOME}/npmrc`, NO_COLOR: "1", NODE_OPTIONS: "" };
  const lines = [];
  if (event.token) {
    // The file names a variable, which npm replaces by its value. Only npm's environment has it.
    lines.push(`${registry.replace(/^https?:/, "")}:_authToken=\${SANDLOT_NPM_TOKEN}`);
    settings.SANDLOT_NPM_TOKEN = event.token;
  }
  writeFileSync(settings.npm_config_userconfig, lines.join("\n"));
  if (event.certificates) {
    writeFileSync(`${HOME}/certificates.pem`, event.certificates);
    settings.npm_config_cafile = `${HOME}/certificates.pem`;
    settings.NODE_EXTRA_CA_CERTS = `${HOME}/certificates.pem`;
  }
  return { ...process.env, ...settings };
}
