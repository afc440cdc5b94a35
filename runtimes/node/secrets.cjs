// A function's secrets as files, for code that needs a path rather than a variable.
//
// The folder is on the sandbox's own tmpfs, so it is in memory and gone with the sandbox. Strict
// sandboxes show it as `/run/secrets` as well.

"use strict";

const { chmodSync, mkdirSync, writeFileSync } = require("node:fs");

const FOLDER_VARIABLE = "SANDLOT_SECRETS_DIR";

/**
 * Write each value, without a newline, to a file of the secret's name, and return the folder.
 *
 * Returns "" if there are no secrets or no place for them: a restricted sandbox without a tmpfs of
 * its own has the home "/", which is not writable.
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
