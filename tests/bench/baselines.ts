/**
 * Weights alone against single-width methods: `deno task baselines [MODEL --calib FILE --eval FILE] [--widths 8,7,…]
 * [--methods 'rtn;gptq;gptq, act-order;awq'] [--seeds N] [--threads N] [--python COMMAND] [--out DIR]`. Rivals optimise one width at a
 * time (baselines/baselines.py, which needs torch and transformers); the published method and ours calibrate once for all. What is
 * finished stays in the folder, so that a stopped run goes on. At the end: a table of perplexities, bytes and seconds.
 */
import { parseArgs } from "@std/cli/parse-args";
import { openWasm } from "../../backends/wasm/backend.ts";
import { readTexts } from "../../compiler/frontends/dataset.ts";
import { localFolder } from "../../compiler/frontends/source.ts";
import { RECIPE_NAMES, type RecipeName } from "../../compiler/recipe.ts";
import { compileModel } from "../../runtime/compile_model.ts";
import { medianOf, openRows, refuseUnknown } from "./report.ts";

/** A method at a width: as baselines.py prints it, and ours alike. */
interface Row {
  readonly method: string;
  readonly width: number;
  readonly seed?: number;
  readonly perplexity: number;
  readonly bytes?: number;
  /** Of optimising that width, or of the one calibration for all. */
  readonly seconds?: number;
}

const bundled = new URL("../../examples/models/world", import.meta.url).pathname;
const options = parseArgs(Deno.args, {
  unknown: refuseUnknown,
  string: ["calib", "eval", "widths", "methods", "seeds", "threads", "python", "out"],
  default: {
    calib: `${bundled}/calibration.jsonl`,
    eval: `${bundled}/evaluation.jsonl`,
    widths: "8,7,6,5,4,3,2",
    methods: "rtn;gptq;gptq, act-order;awq",
    seeds: "1",
    threads: String(navigator.hardwareConcurrency),
    python: "python3",
    out: "out/baselines",
  },
});
const path = String(options._[0] ?? bundled), widths: readonly number[] = options.widths.split(",").map(Number);
await Deno.mkdir(options.out, { recursive: true });
const { rows, add } = await openRows<Row>(`${options.out}/rows.jsonl`, { ...options, model: path });
const isKnown = (method: string, width: number, seed?: number): boolean =>
  rows.some((row) => row.method === method && row.width === width && row.seed === seed);

/** One width of a rival. */
async function rival(method: string, width: number): Promise<Row[]> {
  const script = new URL("./baselines/baselines.py", import.meta.url).pathname;
  const texts = ["--calib", options.calib, "--eval", options.eval],
    own = ["--methods", method, "--widths", String(width)];
  const command = new Deno.Command(options.python, {
    args: [script, path, ...texts, ...own, "--threads", options.threads],
    stderr: "piped",
  });
  const { success, stdout, stderr } = await command.output(), text = new TextDecoder();
  if (!success) throw new Error(text.decode(stderr).trim().split("\n").at(-1));
  return text.decode(stdout).trim().split("\n").map((line): Row => JSON.parse(line)).filter((row) =>
    row.width === width
  );
}

try {
  for (const method of options.methods.split(";")) {
    for (const width of widths) {
      if (isKnown(method, width)) continue;
      console.error(`${method}, ${width} bits`);
      await add(await rival(method, width));
    }
  }
} catch (error) {
  console.error(`SKIPPED rivals: ${error instanceof Error ? error.message : error}`);
}

await using backend = await openWasm({ threads: Number(options.threads) });
const model = await localFolder(path),
  [calibration, evaluation] = [await readTexts(options.calib), await readTexts(options.eval)];
for (const recipe of RECIPE_NAMES) {
  for (let seed = 0; seed < Number(options.seeds); seed++) {
    if (isKnown(recipe, widths[0] ?? 8, seed)) continue;
    console.error(`${recipe}, seed ${seed}, all widths`);
    await add(await ours(recipe, seed));
  }
}

/** All widths of one calibration. */
async function ours(recipe: RecipeName, seed: number): Promise<Row[]> {
  const start = performance.now();
  let seconds: number | undefined;
  const compiled = await compileModel({
    model,
    backend,
    calibration,
    evaluation,
    bits: "2-8",
    recipe,
    seed,
    report: ({ kind }) => {
      // To the last step of all; a rehearsal and what is measured behind it are part of it.
      if (kind === "calibration") seconds = Math.round((performance.now() - start) / 10) / 100;
    },
  });
  return compiled.rows.flatMap(({ bits, perplexity, bytes }): Row[] => {
    const row = { method: recipe, width: Number(bits), seed, perplexity, bytes };
    return widths.includes(row.width) ? [seconds === undefined ? row : { ...row, seconds }] : [];
  });
}

const methods = [...new Set(rows.map(({ method }) => method))];
const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
const cell = (method: string, width: number): string => {
  const own = rows.filter((row) => row.method === method && row.width === width);
  return own.length === 0 ? "" : medianOf(own.map(({ perplexity }) => perplexity)).toPrecision(5);
};
const seconds = (method: string): string => {
  const own = rows.filter((row) => row.method === method), timed = own.flatMap((row) => row.seconds ?? []);
  if (timed.length === 0) return "";
  const once = (RECIPE_NAMES as readonly string[]).includes(method);
  return (once ? medianOf(timed) : timed.reduce((sum, each) => sum + each, 0)).toFixed(0);
};
const bytes = widths.map((width) =>
  (rows.find((row) => row.width === width && row.bytes !== undefined)?.bytes ?? NaN).toLocaleString("en-US")
);
const table = [
  line(["method", ...widths.map((width) => `W${width}`), "seconds for all widths"]),
  line(["---", ...widths.map(() => "---:"), "---:"]),
  ...methods.map((method) => line([method, ...widths.map((width) => cell(method, width)), seconds(method)])),
  line(["bytes", ...bytes, ""]),
].join("\n");
await Deno.writeTextFile(`${options.out}/table.md`, `Perplexity, median of the seeds.\n\n${table}\n`);
console.log(table);
Deno.exit(0);
