// Promises without end, which no timer and no event of the process survives.
const handler = (event, context) => {
  if (event === "behave") return "ok";
  const f = () => { Promise.resolve().then(f); };
  f();
  return new Promise(() => {});
}
