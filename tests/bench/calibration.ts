/**
 * Optimiser steps of an elastic calibration beside PyTorch on the same values, and beside calibrations of single widths:
 * `deno run -A tests/bench/calibration.ts [--json] [--threads N] [--steps N] [--model FOLDER --texts FILE]`. PyTorch is that of
 * `$PYTHON`, or of `python3`.
 */
import { parseArgs } from "@std/cli/parse-args";
import { openWasm } from "../../backends/wasm/backend.ts";
import { planOf } from "../../compiler/plan.ts";
import type { Plan } from "../../compiler/plan.ts";
import { random } from "../../ir/random.ts";
import { WIDTHS } from "../../ir/sites.ts";
import { readTexts } from "../../compiler/frontends/dataset.ts";
import { localFolder } from "../../compiler/frontends/source.ts";
import { openBenchBlock } from "./calibration/block.ts";
import { calibrationSeconds } from "./calibration/depth.ts";
import { trainInTorch } from "./calibration/peer.ts";
import { createReport, medianOf, refuseUnknown } from "./report.ts";

const REPEATS = 5, DEPTH_REPEATS = 3, SEED = 3;
/** Trainings before those that are timed: an engine replaces its first code of a kernel only after some calls. */
const WARM_UP = 4;
/** Losses of the two implementations agree to this part; sums in another order move rounded codes now and then. */
const AGREEMENT = 0.01;

const bundled = new URL("../../examples/models/world", import.meta.url).pathname;
const options = parseArgs(Deno.args, {
  unknown: refuseUnknown,
  boolean: ["json"],
  string: ["threads", "steps", "model", "texts"],
  default: { model: bundled, texts: `${bundled}/calibration.jsonl`, steps: "24" },
});
const threads = Number(options.threads ?? navigator.hardwareConcurrency), steps = Number(options.steps);
const report = createReport(options.json ? "json" : "text");
const plan = planOf({ name: "vernier", track: "weights", seed: 0, width: 0 });

await using backend = await openWasm({ threads });

/** A training at a plan's widths: call it for the seconds and the mean loss of one. */
async function openTraining(plan: Plan) {
  const block = await openBenchBlock(backend, { model: options.model, texts: options.texts, plan, steps });
  const train = async () => {
    let loss = 0, reports = 0;
    const start = performance.now(), inputs = plan.recipe.bitGroups.map(() => block.inputs);
    await block.opened.train(inputs, block.targets, random(SEED, "bench.draw"), (_, mean) => {
      loss += mean.loss;
      reports++;
    });
    return { seconds: (performance.now() - start) / 1000, loss: loss / reports };
  };
  return { block, train };
}

const elastic = await openTraining(plan), first = await elastic.train();
const singles = await Promise.all(
  WIDTHS.map((width) => openTraining({ ...plan, recipe: { ...plan.recipe, bitGroups: [[width]] } })),
);
const all = [elastic, ...singles], seconds = all.map((): number[] => []);
for (let i = 0; i < WARM_UP; i++) for (const { train } of all) await train();
// In turns, so that what else the machine does strikes them alike.
for (let i = 0; i < REPEATS; i++) {
  for (const [n, { train }] of all.entries()) seconds[n]?.push((await train()).seconds);
}
const [ours = NaN, ...others] = seconds.map(medianOf), alone = others.reduce((sum, each) => sum + each, 0);
const peer = await trainInTorch({ backend, block: elastic.block, plan, seed: SEED, threads, repeats: REPEATS }).catch(
  (error) => void console.error(`SKIPPED PyTorch: ${String(error).trim().split("\n").at(-1)}`),
);
if (peer && !(Math.abs(peer.loss / first.loss - 1) < AGREEMENT)) {
  throw new Error(`The two compute different things: loss ${first.loss}, PyTorch ${peer.loss}`);
}
const common = { backend: "wasm", threads, unit: "ms", roofline: null };
report({
  ...common,
  name: "step of an elastic calibration, 2 to 8 bits",
  median: 1000 * ours / steps,
  peer: peer ? `PyTorch ${peer.torch}` : null,
  ratio: peer ? peer.seconds / ours : null,
});
report({
  ...common,
  name: "the same, against seven calibrations of one width",
  median: 1000 * ours / steps,
  peer: "seven calibrations of one width",
  ratio: alone / ours,
});
const [less = NaN, more = NaN] = await calibrationSeconds({
  backend,
  folder: await localFolder(options.model),
  texts: await readTexts(options.texts),
  depths: [2, 4],
  repeats: DEPTH_REPEATS,
});
report({
  ...common,
  name: "calibration of 4 blocks, all widths, one short epoch",
  median: more,
  unit: "s",
  peer: "2 blocks",
  ratio: less / more,
});
Deno.exit(0);
