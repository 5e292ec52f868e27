// Runs the Node samples in the current folder one after the other, as they stand. It prints what
// became of each as JSON: the name of its file, and its error or null.
//
// Nothing tells when the calls of a sample are through but that nothing is left to do: then comes
// the next, so that one process, which has loaded the client once, runs all of them.
import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

const own = path.basename(process.argv[1]);
const samples = fs.readdirSync(".").filter((name) => name.endsWith(".mjs") && name !== own).sort();
const outcomes = {};
let current;
const fail = (error) => (outcomes[current] = String(error?.stack ?? error));

console.log = () => {};
process.on("unhandledRejection", fail);
process.on("beforeExit", () => {
  current = samples.shift();
  if (current === undefined) {
    process.stdout.write(JSON.stringify(outcomes));
    process.exit();
  }
  outcomes[current] = null;
  import(pathToFileURL(current).href).catch(fail);
});
