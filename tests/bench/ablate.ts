/**
 * Ablations: `deno task ablate [MODEL --calib FILE --eval FILE] [--only PART,…] [--seeds N] [--epochs N] [--out DIR] [--threads N]`.
 * Every part of the method is switched on its own (ablate/parts.ts), each run calibrates once for all widths, and what is
 * finished stays in the folder, so that a stopped ablation goes on. At the end: a table, JSON lines and a plot.
 */
import { parseArgs } from "@std/cli/parse-args";
import { createRunner } from "../../backends/runner.ts";
import { openWasm } from "../../backends/wasm/backend.ts";
import { frontierOf, lookUp } from "../../compiler/allocate/frontier.ts";
import { greedyAllocation } from "../../compiler/allocate/greedy.ts";
import { allocationItems } from "../../compiler/allocate/sensitivity.ts";
import { readTexts, tokenizeTexts } from "../../compiler/frontends/dataset.ts";
import { localFolder } from "../../compiler/frontends/source.ts";
import { openTokenizer } from "../../compiler/frontends/tokenizer.ts";
import { artifactSource } from "../../runtime/artifact_source.ts";
import { type CompiledModel, compileModel } from "../../runtime/compile_model.ts";
import { score } from "../../runtime/evaluate.ts";
import { configurationOf } from "../../runtime/configuration.ts";
import { EVALUATION_TOKENS } from "../../runtime/result_row.ts";
import { ablationChart } from "./ablate/chart.ts";
import { COMMON, PARTS } from "./ablate/parts.ts";
import { measureInputOf, traceItems } from "./ablate/traces.ts";
import { medianOf, openRows, refuseUnknown } from "./report.ts";

/** A finished run at one setting. */
interface Row {
  readonly part: string;
  readonly run: string;
  readonly seed: number;
  readonly bits: string;
  readonly perplexity: number;
  readonly kl: number;
}

const BUDGETS = [2.5, 3, 3.5];
const bundled = new URL("../../examples/models/world", import.meta.url).pathname;
const options = parseArgs(Deno.args, {
  unknown: refuseUnknown,
  string: ["calib", "eval", "only", "seeds", "epochs", "out", "threads"],
  default: {
    calib: `${bundled}/calibration.jsonl`,
    eval: `${bundled}/evaluation.jsonl`,
    seeds: "1",
    out: "out/ablation",
  },
});
const folder = await localFolder(String(options._[0] ?? bundled)), out = options.out;
const calibration = await readTexts(options.calib), evaluation = await readTexts(options.eval);
const wanted: readonly string[] = options.only?.split(",") ?? Object.keys(PARTS);
const unknown = wanted.find((part) => !Object.hasOwn(PARTS, part));
if (unknown !== undefined) {
  console.error(`error: Expected a part but found "${unknown}", in --only; use ${Object.keys(PARTS).join(", ")}`);
  Deno.exit(2);
}
await Deno.mkdir(out, { recursive: true });
const { rows, add } = await openRows<Row>(`${out}/rows-${options.epochs ?? "default"}.jsonl`, {
  ...options,
  model: folder.name,
});
await using backend = await openWasm({ threads: Number(options.threads ?? navigator.hardwareConcurrency) });

/** Mixtures of one artifact, allocated in other ways than by search: from single-site losses, by knapsack and greedily, and from traces. */
async function allocations({ artifact }: CompiledModel, seed: number): Promise<Omit<Row, "part" | "run" | "seed">[]> {
  const source = artifactSource(artifact, createRunner(backend)), { module, sensitivities = {} } = artifact.description;
  const items = allocationItems(module, sensitivities);
  const tokenizer = await openTokenizer(folder), maxTokens = Math.min(EVALUATION_TOKENS, source.contextLimit);
  const sequences = tokenizeTexts(evaluation, tokenizer, { maxTokens });
  const measured = tokenizeTexts(calibration, tokenizer, { maxTokens: Math.min(256, maxTokens) });
  const frontier = frontierOf(items), names = items.map(({ site }) => site);
  const traced = await traceItems(await measureInputOf(artifact, folder, backend, measured), seed);
  const bySite = new Map(traced.map((item) => [item.site, item]));
  const traces = frontierOf(names.flatMap((name) => bySite.get(name) ?? []));
  const settings = BUDGETS.flatMap((budget) =>
    ([
      ["knapsack", lookUp(frontier, budget)],
      ["greedy", greedyAllocation(items, budget)],
      ["trace", lookUp(traces, budget)],
    ] as const).map(([kind, point]) => ({
      bits: `${kind}@${budget}`,
      config: configurationOf(source, Object.fromEntries(names.map((name, j) => [name, Number(point?.widths[j])]))),
    }))
  );
  const reference = { source, config: configurationOf(source, "16") };
  const scores = await score({ reference, scorers: settings.map(({ config }) => ({ source, config })), sequences });
  return settings.map(({ bits }, i) => ({ bits, perplexity: scores[i]?.perplexity ?? NaN, kl: scores[i]?.kl ?? NaN }));
}

const seeds = Array.from({ length: Number(options.seeds) }, (_, i) => i);
const runs = wanted.flatMap((part) =>
  (PARTS[part] ?? []).flatMap((variant) => seeds.map((seed) => ({ part, ...variant, seed })))
);
for (const [i, { part, name, changes, seed }] of runs.entries()) {
  if (rows.some((row) => row.part === part && row.run === name && row.seed === seed)) continue;
  console.error(`${i + 1} of ${runs.length}: ${name}, seed ${seed}`);
  const compiled = await compileModel({
    model: folder,
    backend,
    calibration,
    evaluation,
    bits: ["2-8", ...BUDGETS.map((budget) => `mixed@${budget}`)].join(","),
    seed,
    changes: [...COMMON, ...changes],
    settings: options.epochs === undefined ? {} : { epochs: Number(options.epochs) },
  });
  const found = [
    ...compiled.rows.filter(({ bits }) => bits !== "16"),
    ...part === "default" ? await allocations(compiled, seed) : [],
  ]
    .map(({ bits, perplexity, kl }): Row => ({ part, run: name, seed, bits, perplexity, kl }));
  await add(found);
}

const settings = [...new Set(rows.map(({ bits }) => bits))], names = [...new Set(rows.map(({ run }) => run))];
const median = (run: string, bits: string, of: "perplexity" | "kl") =>
  medianOf(rows.filter((row) => row.run === run && row.bits === bits).map((row) => row[of]));
const cell = (value: number) => Number.isNaN(value) ? "" : value.toPrecision(5);
const table = [
  `| run | ${settings.join(" | ")} |`,
  `| --- |${settings.map(() => " --- |").join("")}`,
  ...names.map((run) => `| ${run} | ${settings.map((bits) => cell(median(run, bits, "perplexity"))).join(" | ")} |`),
].join("\n");
await Deno.writeTextFile(`${out}/table.md`, `Perplexity, median of ${seeds.length} seed(s).\n\n${table}\n`);
console.log(table);
const points = names.flatMap((run) =>
  ["2", "3", "4", "6", "8"].map((bits) => ({ run, bits, kl: median(run, bits, "kl") }))
)
  .filter(({ kl }) => kl > 0);
await Deno.writeTextFile(`${out}/chart.svg`, await ablationChart(points));
console.error(`Written to ${out}`);
Deno.exit(0);
