// Load a function and answer requests with it, for as long as the worker wants.
//
// Knows: the order of frames, what ends a process. Does not know: walls, limits, time; the worker has those.
//
// Runs inside the sandbox, in the process of the user's code, which can read and change everything here. Nothing in this file
// protects anything: it is correct for functions that behave, and harmless to the worker for those that do not.
//
// CommonJS, like its neighbours: as ES modules they take 3.5 ms longer to load, a tenth of a cold start.

"use strict";

const { existsSync } = require("node:fs");
const { Module } = require("node:module");
const { contextsOf } = require("./context.cjs");
const { LoadFailed, describe, refuse } = require("./failure.cjs");
const { ERROR, ERROR_LIMIT_BYTES, Link, READY, RESULT, splitRequest } = require("./frames.cjs");
const { loadHandler } = require("./handler.cjs");
const { FOLDER_VARIABLE, writeSecrets } = require("./secrets.cjs");
const { openStreams } = require("./streams.cjs");

const PROTOCOL = 1;
const CONTROL_FD = 3;

// Kept from before user code runs: a function may replace these for itself, and then still finds its own invocations answered.
const exit = process.reallyExit.bind(process);
const later = setImmediate;
const { parse, stringify } = JSON;

/** Calls one handler, request by request. */
class Invocations {
  #link;
  #handler;
  #bundle;
  #contextOf;
  #resultLimitBytes;
  #inFlight = null;

  constructor(link, init, handler) {
    this.#link = link;
    this.#handler = handler;
    this.#bundle = init.bundle;
    this.#contextOf = contextsOf(init);
    this.#resultLimitBytes = init.result_limit_bytes;
  }

  /** Wait for a request, standing still, and start it. */
  next = () => {
    const body = this.#link.receive();
    if (body === null) exit(0);
    const [ticket, fields, event] = splitRequest(body);
    const call = (this.#inFlight = { ticket });
    let result;
    try {
      result = this.#start(event, this.#contextOf(fields));
      if (typeof result?.then === "function") {
        result.then((value) => this.#succeed(call, value), (thrown) => this.#fail(call, thrown));
        return;
      }
    } catch (thrown) {
      this.#fail(call, thrown);
      return;
    }
    this.#succeed(call, result);
  };

  #start(event, context) {
    if (this.#handler.length < 3) return this.#handler(event, context);
    // Lambda's older form: a third parameter is a callback, which counts unless a promise is returned.
    return new Promise((resolve, reject) => {
      const returned = this.#handler(event, context, (error, value) => (error ? reject(error) : resolve(value)));
      if (typeof returned?.then === "function") returned.then(resolve, reject);
    });
  }

  #succeed(call, value) {
    if (call !== this.#inFlight) return;
    let text;
    try {
      text = stringify(value === undefined ? null : value);
    } catch (thrown) {
      this.#settle(ERROR, describe(thrown, this.#bundle, "bad_result"));
      return;
    }
    if (text === undefined) this.#settle(ERROR, refuse("bad_result", "TypeError", `the result is a ${typeof value}, which has no form in JSON`));
    else this.#settle(RESULT, text);
  }

  #fail(call, thrown) {
    if (call === this.#inFlight) this.#settle(ERROR, describe(thrown, this.#bundle));
  }

  #settle(type, text) {
    const { ticket } = this.#inFlight;
    this.#inFlight = null;
    const limit = type === RESULT ? this.#resultLimitBytes : ERROR_LIMIT_BYTES;
    if (text.length > limit || this.#link.send(type, text, limit, ticket) < 0) {
      const size = Buffer.byteLength(text);
      const message = `the result is ${size} bytes of JSON; at most ${limit} are allowed`;
      this.#link.send(ERROR, refuse("bad_result", "ResultTooLarge", message), ERROR_LIMIT_BYTES, ticket);
    }
    // Through the event loop once, so that what the last call left behind (timers, sockets) is not starved by the wait for the next.
    later(this.next);
  }

  /** Nothing caught this. It answers the request if there is one; the process is of no further use. */
  crash = (thrown) => {
    if (this.#inFlight) {
      this.#link.send(ERROR, describe(thrown, this.#bundle), ERROR_LIMIT_BYTES, this.#inFlight.ticket);
    } else {
      console.error(thrown);
    }
    exit(1);
  };

  /** The event loop is empty: a promise that is still pending can never settle. */
  starve = () => {
    if (!this.#inFlight) return;
    this.#settle(ERROR, refuse("error", "PendingPromise", "the handler's promise never settled, and nothing is left that could settle it"));
  };
}

/** Set the manifest's variables, then the secrets: as variables, and as files. */
function giveEnvironment(init) {
  const folder = writeSecrets(process.env.HOME, init.secrets); // the sandbox's home: a manifest may name another
  Object.assign(process.env, init.environment, init.secrets, folder ? { [FOLDER_VARIABLE]: folder } : {});
}

/** Where there is no mount namespace, packages are not above the bundle: `require` is told, `import` has no such way. */
function openPackages(packages) {
  if (!packages || existsSync("/node_modules")) return;
  process.env.NODE_PATH = `${packages}/node_modules`;
  Module._initPaths();
}

/** Load what `I` names, say so with `K`, and answer requests. */
async function serve() {
  openStreams();
  const link = new Link(CONTROL_FD);
  const began = performance.now();
  const body = link.receive();
  if (body === null) exit(0);
  const init = parse(body.utf8Slice());
  const since = () => Math.round((performance.now() - began) * 1000) / 1000;
  const giveUp = (thrown) => {
    const described = parse(describe(thrown, String(init.bundle), "import_error"));
    link.send(READY, stringify({ ok: false, import_ms: since(), ...described }), ERROR_LIMIT_BYTES);
    exit(0);
  };
  process.once("uncaughtException", giveUp);
  const starved = () => giveUp(new LoadFailed("the module awaits something that never settles"));
  process.once("beforeExit", starved);
  try {
    if (init.protocol !== PROTOCOL) throw new LoadFailed(`this runtime speaks protocol ${PROTOCOL}, not ${init.protocol}`);
    giveEnvironment(init);
    openPackages(init.packages);
    const invocations = new Invocations(link, init, await loadHandler(init.bundle, init.handler ?? ""));
    process.off("uncaughtException", giveUp);
    process.off("beforeExit", starved);
    process.on("uncaughtException", invocations.crash);
    process.on("beforeExit", invocations.starve);
    link.send(READY, stringify({ ok: true, import_ms: since() }), ERROR_LIMIT_BYTES);
    later(invocations.next);
  } catch (thrown) {
    giveUp(thrown);
  }
}

serve();
