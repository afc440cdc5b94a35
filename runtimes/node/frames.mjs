// Read and write the frames of runtimes/PROTOCOL.md on a blocking descriptor.
//
// Knows: lengths, types, partial reads and writes. Does not know: what a body means.
//
// Synchronous on purpose: a blocking read wakes sooner than an event loop, and between two invocations the process stands still, as on Lambda.

import { readSync, writeSync, writevSync } from "node:fs";

export const READY = 0x4b;
export const RESULT = 0x4f;
export const ERROR = 0x45;

export const ERROR_LIMIT_BYTES = 256 * 1024;

const HEADER_BYTES = 5;
const BUFFER_BYTES = 64 * 1024;

/** Frames over one descriptor, one at a time. */
export class Link {
  #fd;
  #incoming = Buffer.allocUnsafeSlow(BUFFER_BYTES);
  #outgoing = Buffer.allocUnsafeSlow(BUFFER_BYTES);

  constructor(fd) {
    this.#fd = fd;
  }

  /** The next frame's body, in a buffer that the next call overwrites; null when the worker has closed. */
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

  /** Send one frame; `text` is JSON. Returns its length in bytes, or -1 if it is above `limit` and was not sent. */
  send(type, text, limit) {
    const buffer = this.#outgoing;
    // UTF-8 takes at most three bytes for one UTF-16 unit.
    if (text.length * 3 + HEADER_BYTES <= BUFFER_BYTES) {
      const length = buffer.write(text, HEADER_BYTES);
      writeHeader(buffer, length, type);
      writeAll(this.#fd, buffer.subarray(0, HEADER_BYTES + length));
      return length;
    }
    const body = Buffer.from(text);
    if (body.length > limit) return -1;
    const header = Buffer.allocUnsafe(HEADER_BYTES);
    writeHeader(header, body.length, type);
    const sent = writevSync(this.#fd, [header, body]);
    writeAll(this.#fd, body.subarray(Math.max(0, sent - HEADER_BYTES)));
    return body.length;
  }
}

function writeHeader(buffer, length, type) {
  buffer.writeUInt32BE(length, 0);
  buffer[4] = type;
}

/** Write all of `bytes`; a blocking descriptor may still take only a part at a time. */
export function writeAll(fd, bytes) {
  let sent = 0;
  while (sent < bytes.length) sent += writeSync(fd, bytes, sent, bytes.length - sent);
}

/** Context and event of an invoke frame's body, decoded. */
export function splitRequest(body) {
  const length = body.readUInt32BE(0);
  return [JSON.parse(body.utf8Slice(4, 4 + length)), JSON.parse(body.utf8Slice(4 + length, body.length))];
}
