// Parse one source file and report where it is wrong. sandlot/functions/syntax.py runs this as a
// process of its own.
//
// A Node function may be an expression, a script or a module. None of them is ever evaluated.
// stdin:  {"filename", "source"}
// stdout: {"ok": true} or {"ok": false, "line", "message"}
'use strict';
const fs = require('node:fs');
const vm = require('node:vm');

const FORMS = {
  expression: (source, filename) => new vm.Script(`(${source}\n)`, { filename }),
  script: (source, filename) => vm.compileFunction(source, ['exports', 'require', 'module', '__filename', '__dirname'], { filename }),
  module: (source, filename) => new vm.SourceTextModule(source, { identifier: filename }),
};

function formsOf(filename) {
  if (filename.endsWith('.mjs')) return ['module'];
  if (filename.endsWith('.cjs')) return ['script'];
  return ['expression', 'script', 'module'];
}

/** Return where and why the source does not parse, in V8's words. */
function complaint(error, filename) {
  if (error instanceof RangeError) return { ok: false, line: 1, message: 'nested too deeply' };
  const line = new RegExp(`:(\\d+)$`, 'm').exec(String(error.stack).split('\n')[0]);
  return { ok: false, line: line ? Number(line[1]) : 1, message: error.message };
}

/**
 * Return the same for a module, for which V8 does not report the line: parse it once more as a
 * script, with imports and exports blanked out.
 */
function moduleComplaint(error, source, filename) {
  const blank = (text) => ' '.repeat(text.length);
  const body = source.replace(/^import\b.*$/gm, blank).replace(/^export\s+(default\s+)?/gm, blank);
  try {
    new vm.Script(`(async()=>{${body}\n})`, { filename });
  } catch (again) {
    if (again.message === error.message) return complaint(again, filename);
  }
  return complaint(error, filename);
}

function parse({ filename, source }) {
  const complaints = {};
  for (const form of formsOf(filename)) {
    try {
      FORMS[form](source, filename);
      return { ok: true };
    } catch (error) {
      complaints[form] = form === 'module' ? moduleComplaint(error, source, filename) : complaint(error, filename);
    }
  }
  // Report the complaint about the form that the author most likely meant.
  const module = /^\s*(import|export)\b/m.test(source);
  return (module ? complaints.module : complaints.script) ?? complaints.script ?? complaints.module;
}

process.stdout.write(JSON.stringify(parse(JSON.parse(fs.readFileSync(0, 'utf8')))));
