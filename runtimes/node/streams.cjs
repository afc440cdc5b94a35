// stdout and stderr on the log pipe, descriptors 1 and 2.
//
// Node's own streams make a pipe non-blocking and may buffer output that does not fit. These
// streams write before they return, so everything printed before an answer or a kill is in the
// pipe.

"use strict";

const { Writable } = require("node:stream");
const { writeAll } = require("./frames.cjs");

/** Replace `process.stdout` and `process.stderr`; `console` looks them up at its first use. */
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
