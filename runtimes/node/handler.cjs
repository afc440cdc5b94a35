// A bundle's handler: how it is found, loaded and checked.
//
// The form of a file is found by compiling it, never by running it twice. In this order:
//   1. `.mjs`, or `.js` below a package.json with "type": "module": an ES module.
//   2. The whole file is one expression: `(event, context) => ({...})`,
//      `async function (event) {...}`, `module.exports = ...`.
//   3. It compiles as a script: CommonJS. If it exports nothing, its top-level functions count.
//   4. It does not compile because of import, export or top-level await: an ES module.

"use strict";

const { existsSync, readFileSync, readdirSync } = require("node:fs");
const { Module, createRequire } = require("node:module");
const { basename, dirname, extname, join } = require("node:path");
const { pathToFileURL } = require("node:url");
const vm = require("node:vm");
const { LoadFailed } = require("./failure.cjs");

const SUFFIXES = [".mjs", ".js", ".cjs"];
const DEFAULT_EXPORT = "handler";
const PARAMETERS = ["exports", "require", "module", "__filename", "__dirname"];

/**
 * Load the bundle's file and return its handler.
 *
 * `name` is `file.export` (the file with or without suffix), or empty for the default: `handler` of
 * index or main, or of the only file. Throws LoadFailed if the file or export does not exist, and
 * anything that the user's file throws while it is loaded.
 */
async function loadHandler(bundle, name) {
  const [file, wanted] = locate(bundle, name);
  const found = isModule(file, bundle) ? await fromModule(file) : await fromScript(file);
  return choose(found, wanted, basename(file));
}

function locate(bundle, name) {
  if (!name) return [defaultFile(bundle), DEFAULT_EXPORT];
  const dot = name.lastIndexOf(".");
  if (dot <= 0 || dot === name.length - 1) {
    // `greet.js` names a file without an export, and so does a bare name.
    const file = withSuffix(join(bundle, name));
    if (file) return [file, DEFAULT_EXPORT];
    throw new LoadFailed(`bad handler '${name}': write file.export, for example index.handler`);
  }
  if (SUFFIXES.includes(name.slice(dot)) && existsSync(join(bundle, name))) return [join(bundle, name), DEFAULT_EXPORT];
  const file = withSuffix(join(bundle, name.slice(0, dot)));
  if (!file) throw new LoadFailed(`the bundle has no file '${name.slice(0, dot)}': expected .mjs, .js or .cjs`);
  return [file, name.slice(dot + 1)];
}

function withSuffix(path) {
  if (SUFFIXES.includes(extname(path)) && existsSync(path)) return path;
  return SUFFIXES.map((suffix) => path + suffix).find(existsSync);
}

function defaultFile(bundle) {
  const files = readdirSync(bundle).filter((file) => SUFFIXES.includes(extname(file)));
  for (const stem of ["index", "main"]) {
    const file = SUFFIXES.map((suffix) => stem + suffix).find((candidate) => files.includes(candidate));
    if (file) return join(bundle, file);
  }
  if (files.length === 1) return join(bundle, files[0]);
  throw new LoadFailed(`no handler is named, and the bundle has no index or main file; files: ${files.slice(0, 10).join(", ") || "none"}`);
}

function isModule(file, bundle) {
  if (extname(file) !== ".js") return extname(file) === ".mjs";
  for (let folder = dirname(file); folder.startsWith(bundle); folder = dirname(folder)) {
    const manifest = join(folder, "package.json");
    if (existsSync(manifest)) return JSON.parse(readFileSync(manifest, "utf8")).type === "module";
    if (folder === "/") break;
  }
  return false;
}

async function fromModule(file) {
  try {
    return { exported: await import(pathToFileURL(file).href), unexported: [] };
  } catch (error) {
    throw error instanceof SyntaxError ? locateSyntaxError(error, file) : error;
  }
}

/**
 * Return the same syntax error with its location in `file`, which `import` leaves out.
 *
 * An error in a file that this one imports is returned unchanged.
 */
function locateSyntaxError(error, file) {
  // Only scripts report the location. So the module is compiled as a script, with imports and
  // exports replaced by spaces so that lines and columns stay the same.
  const blank = (text) => " ".repeat(text.length);
  const source = readFileSync(file, "utf8").replace(/^import\b.*$/gm, blank).replace(/^export\s+(default\s+)?/gm, blank);
  try {
    new vm.Script(`(async()=>{${source}\n})`, { filename: file, columnOffset: -"(async()=>{".length });
  } catch (again) {
    if (again.message === error.message) return again;
  }
  return error;
}

async function fromScript(file) {
  const source = readFileSync(file, "utf8").replace(/^#!.*/, "");
  const expression = compile(`return (${withoutEnd(source)}\n)`, file, "return (".length);
  if (expression.run) {
    const module = moduleAt(file);
    const value = expression.run(module);
    return { exported: module.exports, unexported: [value] };
  }
  const names = topLevelNames(source);
  const returned = `\n;return [${names.map((name) => `typeof ${name} === "function" ? ${name} : undefined`).join(", ")}]`;
  const script = compile(source + returned, file, 0);
  if (script.run) return runScript(script, file, names);
  // The file may compile although it does not with the appended return: try without it.
  const plain = compile(source, file, 0);
  if (plain.run) return runScript(plain, file, []);
  if (isModuleSyntaxError(plain.error)) return fromModule(file);
  throw plain.error;
}

function runScript(script, file, names) {
  const module = moduleAt(file);
  const values = script.run(module) ?? [];
  const functions = names.map((name, index) => [name, values[index]]).filter(([, value]) => typeof value === "function");
  const named = functions.find(([name]) => name === DEFAULT_EXPORT) ?? functions.find(([name]) => name === basename(file, extname(file)));
  return { exported: module.exports, unexported: [(named ?? functions.at(-1))?.[1]], named: Object.fromEntries(functions) };
}

/** Compile `code` as a CommonJS body without running it; return `{run}` or `{error}`. */
function compile(code, file, before) {
  try {
    const body = vm.compileFunction(code, PARAMETERS, {
      filename: file,
      columnOffset: -before,
      importModuleDynamically: vm.constants.USE_MAIN_CONTEXT_DEFAULT_LOADER,
    });
    return { run: (module) => body.call(module.exports, module.exports, module.require, module, file, dirname(file)) };
  } catch (error) {
    return { error };
  }
}

function moduleAt(file) {
  const module = new Module(file, null);
  module.filename = file;
  module.paths = Module._nodeModulePaths(dirname(file));
  const require = createRequire(file);
  module.require = require;
  require.cache[file] = module;
  return module;
}

function withoutEnd(source) {
  return source.trimEnd().replace(/;+$/, "");
}

/**
 * Return the names declared at the beginning of a line, in order.
 *
 * A file such as `const f = (event, context) => {...}` exports nothing and is still a function.
 */
function topLevelNames(source) {
  const found = source.matchAll(/^(?:(?:const|let|var)\s+([\p{ID_Start}$_][\p{ID_Continue}$]*)\s*=|(?:async\s+)?function\s*\*?\s*([\p{ID_Start}$_][\p{ID_Continue}$]*))/gmu);
  return [...new Set([...found].map((match) => match[1] ?? match[2]))];
}

function isModuleSyntaxError(error) {
  return error instanceof SyntaxError && /import statement|import\.meta|Unexpected token 'export'|Cannot use 'import|await is only valid/.test(error.message);
}

/** Return the handler from a file's exports or, if there are none, from its declarations. */
function choose({ exported, unexported, named = {} }, wanted, file) {
  const bare = typeof exported !== "function" && Object.keys(exported ?? {}).length === 0;
  const candidates = [exported?.[wanted]];
  if (wanted === DEFAULT_EXPORT) candidates.push(exported?.default, exported?.default?.[wanted], exported, ...(bare ? unexported : []));
  else if (bare) candidates.push(named[wanted]);
  const handler = candidates.find((candidate) => typeof candidate === "function");
  if (handler) return rejectGenerator(handler, `${wanted} in ${file}`);
  const have = [...new Set([...Object.keys(exported ?? {}), ...Object.keys(named)])].slice(0, 10).join(", ");
  const value = candidates.find((candidate) => candidate !== undefined && candidate !== exported);
  if (value !== undefined) throw new LoadFailed(`${wanted} in ${file} is of type ${typeof value}, not a function`);
  throw new LoadFailed(`${file} has no '${wanted}': ${have ? `it has ${have}` : "it exports nothing and is not a function itself"}`);
}

function rejectGenerator(handler, name) {
  const form = Object.prototype.toString.call(handler);
  if (form === "[object GeneratorFunction]" || form === "[object AsyncGeneratorFunction]") {
    throw new LoadFailed(`${name} is a generator: return the whole value instead of yielding parts`);
  }
  return handler;
}

module.exports = { loadHandler };
