// Print for ever.
const handler = (event, context) => {
  if (event === "behave") return "ok";
  const line = "x".repeat(65536);
  while (true) console.log(line);
}
