/** One block of a checkpoint with everything that its training needs, for benchmarks. */
import type { Backend, Tensor } from "../../../backends/backend.ts";
import { type Batches, batchesOf, type Values } from "../../../compiler/calibrate/batches.ts";
import { type ElasticBlock, openBlock } from "../../../compiler/calibrate/block.ts";
import { columnScales } from "../../../compiler/calibrate/column_scales.ts";
import { initialLearned, type LearnedLayout, learnedLayout } from "../../../compiler/calibrate/learned.ts";
import { prepareCall } from "../../../compiler/calibrate/prepare_call.ts";
import { createPool, createPrograms } from "../../../compiler/calibrate/programs.ts";
import type { CalibrationSettings } from "../../../compiler/calibrate/settings.ts";
import { openCheckpoint } from "../../../compiler/frontends/checkpoint.ts";
import type { DecoderConfig } from "../../../compiler/frontends/config.ts";
import { readTexts, tokenizeTexts } from "../../../compiler/frontends/dataset.ts";
import { decoderModule } from "../../../compiler/frontends/decoder.ts";
import { decoderSource } from "../../../compiler/frontends/decoder_source.ts";
import { localFolder } from "../../../compiler/frontends/source.ts";
import { openTokenizer } from "../../../compiler/frontends/tokenizer.ts";
import { elasticModule, structureModule } from "../../../compiler/pipeline.ts";
import { type Plan } from "../../../compiler/plan.ts";
import { functionOf } from "../../../ir/module.ts";
import { random } from "../../../ir/random.ts";
import { concreteShape } from "../../../ir/types.ts";

/** A block that is ready to be trained. */
export interface BenchBlock {
  readonly config: DecoderConfig;
  readonly batches: Batches;
  readonly layout: LearnedLayout;
  /** Learned values before training, as the layout places them. */
  readonly start: Float32Array;
  /** Inputs and targets per batch. Every bit group sees the same inputs: what they are does not change the work. */
  readonly inputs: readonly Values[];
  readonly targets: readonly Float32Array[];
  /** Checkpoint holds by local name. */
  readonly held: Readonly<Record<string, Tensor>>;
  readonly opened: ElasticBlock;
}

/** Where the block comes from and how it is trained. */
export interface BenchBlockOptions {
  readonly model: string;
  readonly texts: string;
  readonly plan: Plan;
  /** Optimiser steps of one training. */
  readonly steps: number;
}

/** Opens the first block of a checkpoint with batches of real lengths and random states as inputs and targets. */
export async function openBenchBlock(backend: Backend, options: BenchBlockOptions): Promise<BenchBlock> {
  const { plan: { recipe, settings } } = options, folder = await localFolder(options.model);
  const checkpoint = await openCheckpoint(folder), { config } = checkpoint;
  const module = elasticModule(decoderModule(config), recipe), call = module.calls[1];
  if (call?.function !== "block") throw new Error("Expected the second call to be a block");
  const sequences = tokenizeTexts(await readTexts(options.texts), await openTokenizer(folder), {
    vocabSize: config.vocabSize,
    maxTokens: Math.min(settings.tokens, config.maxPositions),
    maxSequences: options.steps * settings.batch,
  });
  const batches = batchesOf(sequences, settings.batch, settings.tokens);
  const graph = functionOf(module, call), layout = learnedLayout(graph, recipe.scheme, recipe.bitGroups.flat());
  const source = decoderSource(config), programs = createPrograms(backend);
  const structure = structureModule(decoderModule(config), recipe);
  // Scales of columns are ones, as before a calibration has searched them.
  const { load } = columnScales(
    structure,
    async (name, { shape }) => (await checkpoint.tensor(source(name), concreteShape(shape))).data,
  );
  const { held } = await prepareCall({ programs, load }, module, call, createPool(backend));
  const start = initialLearned(layout, settings.clipStart, random(1, "bench.start"));
  const timed: CalibrationSettings = { ...settings, epochs: 1, balance: false };
  const opened = openBlock(
    programs,
    { graph, name: call.function, recipe, settings: timed, layout, batches, inputs: call.inputs, held },
    start,
  );
  const { cos, sin } = angles(config, batches), size = batches.batch * batches.tokens * config.hiddenSize;
  const rng = random(2, "bench.values"), normal = (n: number) => Float32Array.from({ length: n }, () => rng.normal());
  const inputs = batches.list.map(() => new Map([["h", normal(size)], ["cos", cos], ["sin", sin]]));
  return { config, batches, layout, start, inputs, targets: inputs.map(() => normal(size)), held, opened };
}

/** Tables of the rotary embedding for every token of a batch, [B,T,d]. */
function angles({ headDim, ropeTheta }: DecoderConfig, { batch, tokens }: Batches) {
  const table = (of: (angle: number) => number) =>
    Float32Array.from({ length: batch * tokens * headDim }, (_, i) => {
      const position = Math.floor(i / headDim) % tokens, pair = i % (headDim / 2);
      return of(position * ropeTheta ** (-2 * pair / headDim));
    });
  return { cos: table(Math.cos), sin: table(Math.sin) };
}
