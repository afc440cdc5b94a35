// Bodies of `E` frames, from failures of user code.
//
// The values come from user code, so their getters, lengths and chains of causes cannot be trusted.
// The kinds are those of runtimes/PROTOCOL.md.

"use strict";

const { ERROR_LIMIT_BYTES } = require("./frames.cjs");

const MESSAGE_LIMIT_CHARS = 16 * 1024;
const FRAMES_KEPT = 60;
const CAUSES_KEPT = 8;

/** The function cannot be loaded; the text is for the person who deployed it. */
class LoadFailed extends Error {
  name = "ImportError";
}

/** Return the JSON text for a thrown value; the kind is derived from it unless given. */
function describe(thrown, bundle, kind) {
  return bounded({
    kind: kind ?? kindOf(thrown),
    errorType: nameOf(thrown),
    errorMessage: messageOf(thrown),
    stackTrace: stackTrace(thrown, bundle),
  });
}

/** Return the JSON text for a failure that has no thrown value. */
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

/** Return a property, or undefined if its getter throws. */
function read(value, property) {
  try {
    return value?.[property];
  } catch {
    return undefined;
  }
}

/** Return the lines of a stack trace: each cause's frames and summary, then the frames of `thrown`. */
function stackTrace(thrown, bundle) {
  const summary = (one) => `${nameOf(one)}: ${messageOf(one).slice(0, 500)}`;
  const lines = [];
  for (const cause of causesOf(thrown).reverse()) lines.push(...userFrames(cause, bundle), `${summary(cause)} [cause]`);
  lines.push(...userFrames(thrown, bundle));
  const members = read(thrown, "errors");
  if (Array.isArray(members)) lines.push(...members.slice(0, 10).map((member) => `+ ${summary(member)}`));
  return lines;
}

/** Return the causes of a thrown value, nearest first, at most CAUSES_KEPT and without repetition. */
function causesOf(thrown) {
  const found = [thrown];
  while (found.length <= CAUSES_KEPT) {
    const cause = read(found.at(-1), "cause");
    if (cause === undefined || found.includes(cause)) break;
    found.push(cause);
  }
  return found.slice(1);
}

function userFrames(thrown, bundle) {
  const stack = read(thrown, "stack");
  if (typeof stack !== "string") return [];
  const lines = stack.slice(0, 64 * 1024).toWellFormed().split("\n");
  const folder = bundle.endsWith("/") ? bundle : `${bundle}/`;
  // V8 writes the location of a syntax error on a line of its own, above the message.
  const place = thrown instanceof SyntaxError && /^(file:\/\/)?\/.*:\d+$/.test(lines[0]) ? [`    at ${lines[0]}`, lines[1] ?? ""] : [];
  const frames = lines.filter((line) => line.startsWith("    at ") && line.includes(folder)).reverse();
  return [...place, ...frames.slice(-FRAMES_KEPT)].map((line) => line.slice(0, 500));
}

module.exports = { LoadFailed, describe, refuse };
