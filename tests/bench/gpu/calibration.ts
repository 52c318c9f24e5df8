/** Optimiser steps of one block of a large model. */
import type { Backend, Tensor } from "../../../backends/backend.ts";
import { type BlockInput, openBlock } from "../../../compiler/calibrate/block.ts";
import { batchesOf } from "../../../compiler/calibrate/batches.ts";
import { initialLearned, learnedLayout } from "../../../compiler/calibrate/learned.ts";
import { createPrograms } from "../../../compiler/calibrate/programs.ts";
import { defaultSettings } from "../../../compiler/calibrate/settings.ts";
import type { DecoderConfig } from "../../../compiler/frontends/config.ts";
import { defaultRecipe } from "../../../compiler/recipe.ts";
import { functionOf } from "../../../ir/module.ts";
import { leavesOf, nameOf } from "../../../ir/node.ts";
import { eachWidth } from "../../../ir/sites.ts";
import { random } from "../../../ir/random.ts";
import { type BenchLine, benchLine } from "../report.ts";
import { randomSource } from "../models/random_source.ts";
import type { GpuRoofline } from "./roofline.ts";

const TOKENS = 2048, STEPS = 4;

/** Steps per second of one block, one sequence of 2048 tokens per step, all bit groups of the recipe. */
export async function benchCalibration(
  backend: Backend,
  config: DecoderConfig,
  roofline: GpuRoofline,
  report: (line: BenchLine) => void,
): Promise<void> {
  const recipe = defaultRecipe("weights", 0), source = randomSource(backend, config, "weights");
  const call = source.module.calls.find((each) => each.function === "block");
  if (!call) throw new Error("Expected a block in the model");
  const graph = functionOf(source.module, call), layout = learnedLayout(graph, recipe.scheme, recipe.bitGroups.flat());
  const tokens = Math.min(TOKENS, config.maxPositions);
  const sequences = Array.from(
    { length: STEPS },
    (_, s) => Int32Array.from({ length: tokens }, (_, i) => (i * 31 + s) % config.vocabSize),
  );
  const settings = {
    ...defaultSettings("weights"),
    batch: 1,
    tokens,
    epochs: 1,
    every: eachWidth(() => 1),
    balance: false,
  };
  const holds = leavesOf(graph, "param").filter(({ attrs }) => attrs.time === "checkpoint");
  const held = await source.load(call, new Map(holds.map((node) => [nameOf(node), node.type])));
  const block: BlockInput = {
    graph,
    name: call.function,
    recipe,
    settings,
    layout,
    batches: batchesOf(sequences, 1, tokens),
    inputs: call.inputs,
    held: held as Readonly<Record<string, Tensor>>,
  };
  const opened = openBlock(
    createPrograms(backend),
    block,
    initialLearned(layout, settings.clipStart, random(1, "bench")),
  );
  const size = tokens * config.hiddenSize, rng = random(2, "bench");
  const values = new Map([
    ["h", Float32Array.from({ length: size }, () => rng.uniform() - 0.5)],
    ["cos", new Float32Array(tokens * config.headDim).fill(1)],
    ["sin", new Float32Array(tokens * config.headDim)],
  ]);
  const inputs = recipe.bitGroups.map(() => sequences.map(() => values)),
    targets = sequences.map(() => values.get("h") as Float32Array);
  const steps = async () => {
    const start = performance.now();
    await opened.train(inputs, targets, random(3, "bench"), () => {});
    return (performance.now() - start) / 1000 / STEPS;
  };
  await steps();
  const seconds = await steps();
  const weights = source.sites.filter(({ name, role }) => role === "weight" && name.startsWith(call.prefix))
    .reduce((sum, { parameters }) => sum + parameters, 0);
  const operations = recipe.bitGroups.length * 6 * weights * tokens;
  const name = `optimiser step of one block, ${tokens} tokens, ${recipe.bitGroups.length} widths`;
  report(benchLine({ name, backend: "webgpu", threads: 0, median: 1 / seconds, unit: "steps/s" }, {
    roofline: operations / seconds / roofline.f32,
  }));
  opened.release();
}
