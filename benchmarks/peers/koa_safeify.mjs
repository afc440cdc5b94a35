// The design of the original exercise: Koa in front of a safeify pool (child processes, vm2).
//
// No queue, nothing durable. vm2 isolates inside the language and has a long record of escapes.
import Koa from "koa";
import safeify from "safeify";

const functions = {
  "/hello": `(event, context) => ({ message: "it works!", status: "ok " })`,
  "/echo": `(event, context) => event`,
  // vm2 has no CPU clock, so this takes 5 ms of wall time, which flatters this peer on busy cores.
  "/cpu": `(event, context) => { const until = Date.now() + 5; while (Date.now() < until) {} return { done: true }; }`,
};
const pool = new safeify.Safeify({
  timeout: 5000,
  asyncTimeout: 60000,
  quantity: Number(process.env.BENCH_CPUS),
  unrestricted: true, // its cgroup limits need cgroup v1 tools and root; the exercise dropped them in Docker, too
});
await pool.init();

async function body(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const text = Buffer.concat(chunks).toString();
  return text ? JSON.parse(text) : null;
}

const app = new Koa();
app.use(async (ctx) => {
  const code = functions[ctx.path];
  if (!code) return;
  ctx.body = await pool.run(`return (${code})(event, {})`, { event: await body(ctx.req) });
});
app.listen(Number(process.env.PORT), "127.0.0.1");
