// Close the control descriptor and go on.
const { closeSync } = require("node:fs");
exports.handler = (event, context) => {
  if (event === "behave") return "ok";
  closeSync(3);
  while (1) {}
};
