// The exercise's own: loop.
(event, context) => {
  if (event === "behave") return "ok";
  while (1) {}
}
