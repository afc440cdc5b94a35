// The exercise's own: promises without end, each waiting for the next.
const handler = (event, context) => {
  if (event === "behave") return "ok";
  const f = () => Promise.resolve().then(f);
  return f();
}
