// Starve the event loop with ticks.
const handler = async (event, context) => {
  if (event === "behave") return "ok";
  const f = () => process.nextTick(f);
  f();
  await new Promise((resolve) => setTimeout(resolve, 1));
}
