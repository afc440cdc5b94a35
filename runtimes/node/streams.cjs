// stdout and stderr on the log pipe.
//
// Knows: descriptors 1 and 2. Does not know: invocations.
//
// Node's own streams make a pipe non-blocking and may keep what does not fit for later; these write before they return, so that what was
// printed before an answer, or before a kill, is in the pipe.

"use strict";

const { Writable } = require("node:stream");
const { writeAll } = require("./frames.cjs");

/** Replace `process.stdout` and `process.stderr`; `console` finds them at its first use. */
function openStreams() {
  for (const [name, fd] of [["stdout", 1], ["stderr", 2]]) {
    const stream = new Writable({
      decodeStrings: true,
      write(chunk, _encoding, done) {
        writeAll(fd, chunk);
        done();
      },
    });
    stream.fd = fd;
    Object.defineProperty(process, name, { value: stream, configurable: true, enumerable: true, writable: true });
  }
}

module.exports = { openStreams };
