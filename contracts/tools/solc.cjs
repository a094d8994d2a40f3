// The part of solc's command line that forge uses (--version, --standard-json with --base-path and --include-path), over npm's solc.
"use strict";
const fs = require("fs");
const path = require("path");
const solc = require(path.join(__dirname, "..", "node_modules", "solc"));

function optionValues(name, args) {
  return args.flatMap((arg, i) => (arg === name && i + 1 < args.length ? [args[i + 1]] : []));
}

function main(args) {
  if (args.includes("--version")) {
    process.stdout.write(`solc, the solidity compiler commandline interface\nVersion: ${solc.version()}\n`);
    return 0;
  }
  if (!args.includes("--standard-json")) {
    process.stderr.write(`tools/solc answers --version and --standard-json only, not: ${args.join(" ")}\n`);
    return 1;
  }
  const roots = [...optionValues("--base-path", args), ...optionValues("--include-path", args), "."];
  const findImport = (name) => {
    const found = roots.map((root) => path.resolve(root, name)).find((file) => fs.existsSync(file));
    return found ? { contents: fs.readFileSync(found, "utf8") } : { error: `${name} is in none of ${roots.join(", ")}` };
  };
  process.stdout.write(solc.compile(fs.readFileSync(0, "utf8"), { import: findImport }));
  return 0;
}

process.exitCode = main(process.argv.slice(2));
