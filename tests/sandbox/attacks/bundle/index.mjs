// The function that attacks, for Node: runs one attempt by name and says what it got. See main.py beside it.
import childProcess from "node:child_process";
import dgram from "node:dgram";
import { once } from "node:events";
import fs from "node:fs";
import inspector from "node:inspector";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import vm from "node:vm";
import { Worker } from "node:worker_threads";

const MIB = 1024 * 1024;

async function connected(options) {
  const socket = net.connect(options);
  await once(socket, "connect");
  socket.destroy();
  return `connected to ${JSON.stringify(options)}`;
}

const attempts = {
  read_host_file: (t) => fs.readFileSync(t.file, "utf8"),
  read_through_parents: (t) => fs.readFileSync("../".repeat(20) + t.file, "utf8"),
  read_shadow: () => fs.readFileSync("/etc/shadow", "latin1").slice(0, 20),
  append_to_host_file: (t) => (fs.appendFileSync(t.victim_file, "!"), "appended"),
  symlink_to_host_file: (t) => {
    const link = path.join(t.scratch, "node-link");
    fs.symlinkSync(t.file, link);
    try {
      return fs.readFileSync(link, "utf8");
    } finally {
      fs.unlinkSync(link);
    }
  },
  write_own_code: (t) => {
    const file = path.join(t.bundle, "planted.mjs");
    fs.writeFileSync(file, "");
    fs.unlinkSync(file);
    return "wrote";
  },
  read_victim_environment: (t) => {
    const text = fs.readFileSync(`/proc/${t.victim_pid}/environ`, "utf8");
    return text.includes(t.token) ? "the victim's environment" : null;
  },
  read_own_environment: (t) => Object.keys(process.env).find((name) => process.env[name].includes(t.token)) ?? null,
  shell_reads_host_file: (t) => childProcess.execFileSync("/bin/sh", ["-c", `read line < ${t.file}; echo "$line"`], { encoding: "utf8" }).trim(),
  tcp_loopback: (t) => connected({ host: "127.0.0.1", port: t.tcp_port }),
  tcp_loopback_v6: (t) => connected({ host: "::1", port: t.tcp6_port }),
  path_socket: (t) => connected({ path: t.socket_path }),
  abstract_socket: (t) => connected({ path: `\0${t.abstract}` }),
  fetch_host: async (t) => `status ${(await fetch(`http://127.0.0.1:${t.http_port}/`)).status}`,
  udp: async (t) => {
    const socket = dgram.createSocket("udp4");
    try {
      await new Promise((resolve, reject) => {
        socket.on("error", reject);
        socket.send("x", t.udp_port, "127.0.0.1", (error) => (error ? reject(error) : resolve()));
      });
    } finally {
      try { socket.close(); } catch { /* it was never opened */ }
    }
    return "sent";
  },
  inspector_port: () => {
    inspector.open(0, "127.0.0.1");
    const url = inspector.url();
    if (url) inspector.close();
    return url ?? null;
  },
  signal_victim: (t) => (process.kill(t.victim_pid, 0), "could signal"),
  become_root: () => (process.setuid(0), `uid ${process.getuid()}`),
  raise_priority: () => (os.setPriority(0, -10), os.setPriority(0, 0), "raised"),
  leave_vm_context: (t) => {
    // vm is no wall at all: the constructor of anything from outside reaches the outside. Only what the process itself may do is left.
    const escaped = vm.runInNewContext("this.constructor.constructor('return process')()");
    return escaped.getBuiltinModule("node:fs").readFileSync(t.file, "utf8");
  },
  much_buffer_memory: () => {
    const kept = [];
    for (let index = 0; index < 20; index += 1) kept.push(Buffer.alloc(64 * MIB, 1));
    return `${kept.length * 64} MiB`;
  },
  much_wasm_memory: () => {
    const kept = [];
    for (let index = 0; index < 20; index += 1) {
      const memory = new WebAssembly.Memory({ initial: 1024 });
      new Uint8Array(memory.buffer).fill(1);
      kept.push(memory);
    }
    return `${kept.length * 64} MiB`;
  },
  many_workers: async () => {
    const workers = [];
    try {
      for (let index = 0; index < 40; index += 1) {
        const worker = new Worker("setInterval(() => {}, 1000)", { eval: true });
        workers.push(worker);
        await Promise.race([once(worker, "online"), once(worker, "error").then(([error]) => Promise.reject(error))]);
      }
    } finally {
      await Promise.all(workers.map((worker) => worker.terminate()));
    }
    return `${workers.length} workers`;
  },
  fill_disk: (t) => {
    const file = path.join(t.scratch, "node-fill");
    try {
      const fd = fs.openSync(file, "w");
      for (let index = 0; index < 200; index += 1) fs.writeSync(fd, Buffer.alloc(MIB));
      fs.closeSync(fd);
    } finally {
      fs.rmSync(file, { force: true });
    }
    return "200 MiB";
  },
};

export const names = Object.keys(attempts);

export async function handler(event) {
  try {
    return { got: (await attempts[event.attempt](event.targets)) ?? null, why: "" };
  } catch (error) {
    return { got: null, why: String(error?.message ?? error) };
  }
}
