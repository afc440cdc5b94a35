// A function's secrets as files, for code that wants a path rather than a variable.
//
// Knows: the folder, its permissions, the variable that names it. Does not know: which secrets there are.
//
// The folder is on the sandbox's own tmpfs, in memory and gone with it; strict sandboxes show it as `/run/secrets` as well.

"use strict";

const { chmodSync, mkdirSync, writeFileSync } = require("node:fs");

const FOLDER_VARIABLE = "SANDLOT_SECRETS_DIR";

/**
 * Write each value, alone and without a line's end, to a file of its name; the folder, or "" where there is none to write to
 * (a restricted sandbox without a tmpfs of its own lives in "/", where nothing can be written).
 */
function writeSecrets(home, secrets) {
  const entries = Object.entries(secrets ?? {});
  if (entries.length === 0 || !home || home === "/") return "";
  const folder = `${home}/.secrets`;
  mkdirSync(folder, { mode: 0o700 });
  for (const [name, value] of entries) writeFileSync(`${folder}/${name}`, value, { mode: 0o400, flag: "wx" });
  chmodSync(folder, 0o500);
  return folder;
}

module.exports = { FOLDER_VARIABLE, writeSecrets };
