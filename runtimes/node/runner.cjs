// The runtime's main loop: load a function and answer requests until the worker closes the socket.
//
// It runs inside the sandbox, in the process of the user's code, which can read and change
// everything here. This file therefore protects nothing. It serves functions that behave, and a
// function that does not behave can do the worker no harm through it. Isolation, limits and clocks
// are the worker's.
//
// The runtime is CommonJS: as ES modules its files take 3.5 ms longer to load, a tenth of a cold
// start.

"use strict";

const { existsSync } = require("node:fs");
const { Module } = require("node:module");
const { contextsOf } = require("./context.cjs");
const { LoadFailed, describe, refuse } = require("./failure.cjs");
const { ERROR, ERROR_LIMIT_BYTES, FrameSocket, READY, RESULT, splitRequest } = require("./frames.cjs");
const { loadHandler } = require("./handler.cjs");
const { FOLDER_VARIABLE, writeSecrets } = require("./secrets.cjs");
const { openStreams } = require("./streams.cjs");

const PROTOCOL = 1;
const CONTROL_FD = 3;

// References from before user code runs: a function may replace these for itself, and its
// invocations are still answered.
const exit = process.reallyExit.bind(process);
const later = setImmediate;
const { parse, stringify } = JSON;

/** The handler, which answers one request after the other. */
class Invocations {
  #socket;
  #handler;
  #bundle;
  #contextOf;
  #resultLimitBytes;
  #inFlight = null;

  constructor(socket, init, handler) {
    this.#socket = socket;
    this.#handler = handler;
    this.#bundle = init.bundle;
    this.#contextOf = contextsOf(init);
    this.#resultLimitBytes = init.result_limit_bytes;
  }

  /** Block until a request arrives, and start it. */
  next = () => {
    const body = this.#socket.receive();
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
    // Lambda's older form: a third parameter is a callback, used unless a promise is returned.
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
    if (text === undefined) this.#settle(ERROR, refuse("bad_result", "TypeError", `the result is a ${typeof value}, which JSON cannot represent`));
    else this.#settle(RESULT, text);
  }

  #fail(call, thrown) {
    if (call === this.#inFlight) this.#settle(ERROR, describe(thrown, this.#bundle));
  }

  #settle(type, text) {
    const { ticket } = this.#inFlight;
    this.#inFlight = null;
    const limit = type === RESULT ? this.#resultLimitBytes : ERROR_LIMIT_BYTES;
    if (text.length > limit || this.#socket.send(type, text, limit, ticket) < 0) {
      const size = Buffer.byteLength(text);
      const message = `the result is ${size} bytes of JSON; at most ${limit} are allowed`;
      this.#socket.send(ERROR, refuse("bad_result", "ResultTooLarge", message), ERROR_LIMIT_BYTES, ticket);
    }
    // One turn of the event loop, so that timers and sockets that the last call left behind are not
    // starved by the blocking wait for the next request.
    later(this.next);
  }

  /** Answer the request in flight, if any, with an uncaught exception, and end the process. */
  crash = (thrown) => {
    if (this.#inFlight) {
      this.#socket.send(ERROR, describe(thrown, this.#bundle), ERROR_LIMIT_BYTES, this.#inFlight.ticket);
    } else {
      console.error(thrown);
    }
    exit(1);
  };

  /** Fail the request in flight: the event loop is empty, so its promise can never settle. */
  starve = () => {
    if (!this.#inFlight) return;
    this.#settle(ERROR, refuse("error", "PendingPromise", "the handler's promise never settled, and no timer or I/O is left that could settle it"));
  };
}

/** Set the manifest's variables, then the secrets as variables and files. */
function giveEnvironment(init) {
  // HOME is read before the manifest's variables, which may replace it.
  const folder = writeSecrets(process.env.HOME, init.secrets);
  Object.assign(process.env, init.environment, init.secrets, folder ? { [FOLDER_VARIABLE]: folder } : {});
}

/**
 * Let `require` find packages where there is no mount namespace, so `/node_modules` does not exist.
 *
 * `import` ignores NODE_PATH and does not find them.
 */
function openPackages(packages) {
  if (!packages || existsSync("/node_modules")) return;
  process.env.NODE_PATH = `${packages}/node_modules`;
  Module._initPaths();
}

/** Load the function that `I` names, send `K`, and answer requests. */
async function serve() {
  openStreams();
  const socket = new FrameSocket(CONTROL_FD);
  const began = performance.now();
  const body = socket.receive();
  if (body === null) exit(0);
  const init = parse(body.utf8Slice());
  const since = () => Math.round((performance.now() - began) * 1000) / 1000;
  const giveUp = (thrown) => {
    const described = parse(describe(thrown, String(init.bundle), "import_error"));
    socket.send(READY, stringify({ ok: false, import_ms: since(), ...described }), ERROR_LIMIT_BYTES);
    exit(0);
  };
  process.once("uncaughtException", giveUp);
  const starved = () => giveUp(new LoadFailed("the module awaits something that never settles"));
  process.once("beforeExit", starved);
  try {
    if (init.protocol !== PROTOCOL) throw new LoadFailed(`this runtime speaks protocol ${PROTOCOL}, not ${init.protocol}`);
    giveEnvironment(init);
    openPackages(init.packages);
    const invocations = new Invocations(socket, init, await loadHandler(init.bundle, init.handler ?? ""));
    process.off("uncaughtException", giveUp);
    process.off("beforeExit", starved);
    process.on("uncaughtException", invocations.crash);
    process.on("beforeExit", invocations.starve);
    socket.send(READY, stringify({ ok: true, import_ms: since() }), ERROR_LIMIT_BYTES);
    later(invocations.next);
  } catch (thrown) {
    giveUp(thrown);
  }
}

serve();
