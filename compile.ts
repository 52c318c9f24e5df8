/**
 * Vernier's command line: parses, calls, prints. `deno run compile.ts --help` lists what it can do.
 *
 * Exit codes: 0 success, 1 a mistake of this program, 2 a mistake in what was given to it.
 */
import calibration from "./examples/models/world/calibration.jsonl" with { type: "bytes" };
import config from "./examples/models/world/config.json" with { type: "bytes" };
import evaluation from "./examples/models/world/evaluation.jsonl" with { type: "bytes" };
import weights from "./examples/models/world/model.safetensors" with { type: "bytes" };
import tokenizer from "./examples/models/world/tokenizer.json" with { type: "bytes" };
import tokenizerConfig from "./examples/models/world/tokenizer_config.json" with { type: "bytes" };
import { parseTexts } from "./compiler/frontends/dataset.ts";
import { memoryFolder } from "./compiler/frontends/source.ts";
import { UserError } from "./ir/errors.ts";
import { compileCommand } from "./runtime/commands/compile.ts";
import { evaluateCommand } from "./runtime/commands/eval.ts";
import type { BundledModel, Host } from "./runtime/commands/host.ts";
import { inspectCommand } from "./runtime/commands/inspect.ts";
import { type Command, readCommand } from "./runtime/commands/options.ts";
import { createProgress, stderrOutput } from "./runtime/commands/progress.ts";
import { runCommand } from "./runtime/commands/run.ts";
import { VERSION } from "./runtime/version.ts";

const bundled: BundledModel = {
  folder: memoryFolder(
    "the bundled model",
    new Map([
      ["config.json", config],
      ["model.safetensors", weights],
      ["tokenizer.json", tokenizer],
      ["tokenizer_config.json", tokenizerConfig],
    ]),
  ),
  calibration: parseTexts(calibration, "calibration.jsonl"),
  evaluation: parseTexts(evaluation, "evaluation.jsonl"),
};

async function execute(command: Command, host: Host): Promise<void> {
  switch (command.kind) {
    case "compile":
      return await compileCommand(command, host);
    case "eval":
      return await evaluateCommand(command, host);
    case "run":
      return await runCommand(command, host);
    case "inspect":
      return await inspectCommand(command, host);
    case "help":
      return host.print(command.text);
    case "version":
      return host.print(VERSION);
    default:
      return command satisfies never;
  }
}

/** Runs a command line and returns the exit code. */
async function main(args: readonly string[]): Promise<number> {
  const progress = createProgress(stderrOutput()), encoder = new TextEncoder();
  const write = (text: string) => {
    const bytes = encoder.encode(text);
    try {
      for (let at = 0; at < bytes.length;) at += Deno.stdout.writeSync(bytes.subarray(at));
    } catch (error) {
      // A reader such as `head` has seen enough.
      if (error instanceof Deno.errors.BrokenPipe) throw error;
      const reason = error instanceof Error ? error.message : error;
      throw new UserError({ what: `Cannot write to standard output: ${reason}` }, { cause: error });
    }
  };
  try {
    await execute(readCommand(args), { bundled, progress, write, print: (line) => write(`${line}\n`) });
    return 0;
  } catch (error) {
    progress.end();
    if (error instanceof UserError) {
      progress.line(`error: ${error.message}`);
      return error.exitCode;
    }
    if (error instanceof Deno.errors.BrokenPipe) return 0;
    const [reason] = String(error instanceof Error ? error.message : error).split("\n");
    progress.line(`internal error: ${reason}; please report it with the command and what it was given`);
    return 1;
  }
}

if (import.meta.main) Deno.exit(await main(Deno.args));
