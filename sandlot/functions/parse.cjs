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

function complaint(error, filename) {
  const line = new RegExp(`:(\\d+)$`, 'm').exec(String(error.stack).split('\n')[0]);
  return { ok: false, line: line ? Number(line[1]) : 1, message: error.message };
}

function parse({ filename, source }) {
  const complaints = {};
  for (const form of formsOf(filename)) {
    try {
      FORMS[form](source, filename);
      return { ok: true };
    } catch (error) {
      complaints[form] = complaint(error, filename);
    }
  }
  // Of the complaints, the one about the form its author most likely meant.
  const module = /^\s*(import|export)\b/m.test(source);
  return (module ? complaints.module : complaints.script) ?? complaints.module;
}

process.stdout.write(JSON.stringify(parse(JSON.parse(fs.readFileSync(0, 'utf8')))));
