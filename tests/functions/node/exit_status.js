// Leave without a word.
const handler = (event, context) => {
  if (event === "behave") return "ok";
  process.exit(event);
}
