// Turn what went wrong in user code into the body of an error frame.
//
// Knows: errors, stacks, the kinds of runtimes/PROTOCOL.md. Does not know: frames.
//
// User code made the values looked at here, so their getters, lengths and chains are not to be trusted.

"use strict";

const { ERROR_LIMIT_BYTES } = require("./frames.cjs");

const MESSAGE_LIMIT_CHARS = 16 * 1024;
const FRAMES_KEPT = 60;
const CAUSES_KEPT = 8;

/** The function cannot be loaded; the text is for whoever deployed it. */
class LoadFailed extends Error {
  name = "ImportError";
}

/** JSON text for whatever was thrown; `kind` as given, or by what it is. */
function describe(thrown, bundle, kind) {
  return bounded({
    kind: kind ?? kindOf(thrown),
    errorType: nameOf(thrown),
    errorMessage: messageOf(thrown),
    stackTrace: chain(thrown, bundle),
  });
}

/** JSON text for what is wrong without anything having been thrown. */
function refuse(kind, errorType, errorMessage) {
  return bounded({ kind, errorType, errorMessage, stackTrace: [] });
}

function bounded(fields) {
  let text = JSON.stringify(fields);
  if (text.length * 3 > ERROR_LIMIT_BYTES) {
    fields.stackTrace = fields.stackTrace.slice(-10).map((line) => line.slice(0, 300));
    fields.errorMessage = fields.errorMessage.slice(0, 4096);
    text = JSON.stringify(fields);
  }
  return text;
}

function kindOf(thrown) {
  const message = messageOf(thrown);
  if (thrown instanceof RangeError && /allocation failed|could not allocate memory/i.test(message)) return "memory";
  const code = read(thrown, "code");
  if (code === "ERR_WORKER_OUT_OF_MEMORY") return "memory";
  if (code === "EAGAIN" && String(read(thrown, "syscall") ?? "").startsWith("spawn")) return "processes";
  return "error";
}

function nameOf(thrown) {
  if (!(thrown instanceof Error)) return thrown === null ? "null" : typeof thrown;
  const name = read(thrown, "name");
  return typeof name === "string" && name ? name.toWellFormed().slice(0, 200) : "Error";
}

function messageOf(thrown) {
  let text;
  try {
    text = thrown instanceof Error ? String(thrown.message) : typeof thrown === "object" ? JSON.stringify(thrown) : String(thrown);
  } catch {
    return "<the error's own message failed>";
  }
  text ??= "";
  if (text.length > MESSAGE_LIMIT_CHARS) text = `${text.slice(0, MESSAGE_LIMIT_CHARS)}… (${text.length} characters)`;
  return text.toWellFormed();
}

/** A property that may be a getter that throws. */
function read(value, property) {
  try {
    return value?.[property];
  } catch {
    return undefined;
  }
}

/** Frames of the causes first, each followed by what it was, then those of `thrown`. */
function chain(thrown, bundle) {
  const links = [];
  for (let current = thrown; current !== undefined && links.length <= CAUSES_KEPT; current = read(current, "cause")) {
    if (links.includes(current)) break;
    links.push(current);
  }
  const lines = [];
  for (let index = links.length - 1; index >= 0; index--) {
    lines.push(...userFrames(links[index], bundle));
    if (index > 0) lines.push(`${nameOf(links[index])}: ${messageOf(links[index]).slice(0, 500)} [cause]`);
  }
  const members = read(thrown, "errors");
  if (Array.isArray(members)) lines.push(...members.slice(0, 10).map((one) => `+ ${nameOf(one)}: ${messageOf(one).slice(0, 500)}`));
  return lines;
}

function userFrames(thrown, bundle) {
  const stack = read(thrown, "stack");
  if (typeof stack !== "string") return [];
  const lines = stack.slice(0, 64 * 1024).toWellFormed().split("\n");
  const folder = bundle.endsWith("/") ? bundle : `${bundle}/`;
  // V8 puts the place of a syntax error above the message, in a line of its own.
  const place = thrown instanceof SyntaxError && /^(file:\/\/)?\/.*:\d+$/.test(lines[0]) ? [`    at ${lines[0]}`, lines[1] ?? ""] : [];
  const frames = lines.filter((line) => line.startsWith("    at ") && line.includes(folder)).reverse();
  return [...place, ...frames.slice(-FRAMES_KEPT)].map((line) => line.slice(0, 500));
}

module.exports = { LoadFailed, describe, refuse };
