// The exercise's own: nobody leaves.
const handler = async (event, context) => {
  if (event === "behave") return "ok";
  process.exit = () => {};
  process.kill = () => {};
  process.abort = () => {};
  for (const name of ["SIGTERM", "SIGHUP", "SIGUSR2"]) process.on(name, () => {});
  while (1) {}
}
