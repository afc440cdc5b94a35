// The attack that runs inside a Node sandbox, on the isolation features that JavaScript can reach.
// The file main.py beside it describes the form of an answer.
import fs from "node:fs";
import net from "node:net";
import path from "node:path";

async function attack(reach) {
  try {
    return [true, `reached: ${await reach()}`];
  } catch (error) {
    return [false, error.code ?? String(error)];
  }
}

function connect(options) {
  return new Promise((resolve, reject) => {
    const sock = net.connect(options, () => {
      sock.destroy();
      resolve("connected");
    });
    sock.on("error", reject);
  });
}

export async function handler(event) {
  const theirs = Object.keys(process.env).filter((name) => process.env[name].includes(event.secret) || name.startsWith("SANDLOT_"));
  return {
    files: await attack(() => fs.readFileSync(event.canary_file).length),
    bundle: await attack(() => fs.writeFileSync(path.join(event.bundle, "planted"), "x")),
    processes: await attack(() => process.kill(event.neighbour_pid, 0)),
    "worker memory": await attack(() => fs.openSync(`/proc/${event.neighbour_pid}/environ`)),
    tcp: await attack(() => connect({ host: "127.0.0.1", port: event.canary_port })),
    "abstract sockets": await attack(() => connect({ path: `\0${event.canary_name}` })),
    environment: [theirs.length > 0, `of the worker's: ${theirs.join() || "none"}`],
  };
}
