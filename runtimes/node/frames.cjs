// Frames of runtimes/PROTOCOL.md on a blocking descriptor.
//
// Reads and writes are synchronous on purpose: a blocking read wakes sooner than an event loop, and
// between two invocations the process does nothing, as on Lambda.

"use strict";

const { readSync, writeSync, writevSync } = require("node:fs");

const READY = 0x4b;
const RESULT = 0x4f;
const ERROR = 0x45;

const ERROR_LIMIT_BYTES = 256 * 1024;

const HEADER_BYTES = 5;
const TICKET_BYTES = 8;
const NO_TICKET = Buffer.alloc(0);
const BUFFER_BYTES = 64 * 1024;

/** One descriptor that carries frames, one at a time in each direction. */
class FrameSocket {
  #fd;
  #incoming = Buffer.allocUnsafeSlow(BUFFER_BYTES);
  #outgoing = Buffer.allocUnsafeSlow(BUFFER_BYTES);

  constructor(fd) {
    this.#fd = fd;
  }

  /**
   * Wait for the next frame and return its body, in a buffer that the next call overwrites.
   *
   * Returns null when the worker has closed the socket.
   */
  receive() {
    const buffer = this.#incoming;
    let got = 0;
    while (got < HEADER_BYTES) {
      const more = this.#read(buffer, got);
      if (more === 0) return null;
      got += more;
    }
    const length = buffer.readUInt32BE(0);
    const end = HEADER_BYTES + length;
    const whole = end <= BUFFER_BYTES ? buffer : Buffer.allocUnsafeSlow(end);
    if (whole !== buffer) buffer.copy(whole, 0, 0, got);
    while (got < end) {
      const more = this.#read(whole, got);
      if (more === 0) return null;
      got += more;
    }
    return whole.subarray(HEADER_BYTES, end);
  }

  #read(buffer, from) {
    try {
      return readSync(this.#fd, buffer, from, buffer.length - from, null);
    } catch (error) {
      if (error.code === "ECONNRESET" || error.code === "EPIPE") return 0;
      throw error;
    }
  }

  /**
   * Send one frame with `ticket` and then `text`, which is JSON.
   *
   * Returns the length of the text in bytes, or -1 if that is above `limit` and nothing was sent.
   */
  send(type, text, limit, ticket = NO_TICKET) {
    const buffer = this.#outgoing;
    const start = HEADER_BYTES + ticket.length;
    // UTF-8 needs at most three bytes for one UTF-16 unit.
    const fits = text.length * 3 + start <= BUFFER_BYTES;
    const body = fits ? null : Buffer.from(text);
    const length = fits ? buffer.write(text, start) : body.length;
    if (length > limit) return -1;
    buffer.writeUInt32BE(ticket.length + length, 0);
    buffer[4] = type;
    ticket.copy(buffer, HEADER_BYTES);
    if (fits) {
      writeAll(this.#fd, buffer.subarray(0, start + length));
      return length;
    }
    // The start always fits into an empty socket buffer; only a long body needs more writes.
    const sent = writevSync(this.#fd, [buffer.subarray(0, start), body]) - start;
    writeAll(this.#fd, body.subarray(sent));
    return length;
  }
}

/** Write all of `bytes`; even a blocking descriptor may accept only a part at a time. */
function writeAll(fd, bytes) {
  let sent = 0;
  while (sent < bytes.length) sent += writeSync(fd, bytes, sent, bytes.length - sent);
}

/** Split the body of an `R` frame into a copy of its ticket, and context and event, both decoded. */
function splitRequest(body) {
  const context = TICKET_BYTES + 4;
  const event = context + body.readUInt32BE(TICKET_BYTES);
  return [Buffer.from(body.subarray(0, TICKET_BYTES)), JSON.parse(body.utf8Slice(context, event)), JSON.parse(body.utf8Slice(event, body.length))];
}

module.exports = { READY, RESULT, ERROR, ERROR_LIMIT_BYTES, FrameSocket, writeAll, splitRequest };
