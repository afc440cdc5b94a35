// Parse one source file and say where it is wrong. Run by sandlot/functions/syntax.py as a process of its own.
//
// Knows: the three forms a Node function may have (an expression, a script, a module). Never evaluates any of them.
// In: {"filename", "source"} on stdin. Out: {"ok": true} or {"ok": false, "line", "message"} on stdout.
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

/** Where and why it does not parse, in V8's words. */
function complaint(error, filename) {
  if (error instanceof RangeError) return { ok: false, line: 1, message: 'nested too deeply' };
  const line = new RegExp(`:(\\d+)$`, 'm').exec(String(error.stack).split('\n')[0]);
  return { ok: false, line: line ? Number(line[1]) : 1, message: error.message };
}

/** The same for a module, whose place V8 does not tell: it is parsed once more as a script, imports and exports blanked out. */
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
  // Of the complaints, the one about the form its author most likely meant.
  const module = /^\s*(import|export)\b/m.test(source);
  return (module ? complaints.module : complaints.script) ?? complaints.script ?? complaints.module;
}

process.stdout.write(JSON.stringify(parse(JSON.parse(fs.readFileSync(0, 'utf8')))));
