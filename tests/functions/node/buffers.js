// Fill memory beside the heap.
const handler = (event, context) => {
  if (event === "behave") return "ok";
  const hoard = [];
  while (true) hoard.push(Buffer.alloc(16 * 1024 * 1024, 1));
}
