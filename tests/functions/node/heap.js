// Fill the heap.
const handler = (event, context) => {
  if (event === "behave") return "ok";
  const hoard = [];
  while (true) hoard.push(new Array(1000).fill({ a: 1 }), String(hoard.length).repeat(10));
}
