// Wait for what never comes, with a timer that keeps the loop alive.
const handler = async (event, context) => {
  if (event === "behave") return "ok";
  setInterval(() => {}, 1000);
  await new Promise(() => {});
}
