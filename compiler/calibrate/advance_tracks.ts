/** @file What goes on to the next block: the outputs of a finished one at widths drawn afresh, apart or merged (quept-method 5). */
import type { Tensor } from "../../backends/backend.ts";
import type { Random } from "../../ir/random.ts";
import { tensorType, type Width } from "../../ir/types.ts";
import type { Recipe } from "../recipe.ts";
import { asFloats, type Batches, pickRows, type Values } from "./batches.ts";
import type { ElasticBlock } from "./block.ts";
import { MERGE_INPUTS, mergeProgram } from "./merge.ts";
import { createPool, type Programs } from "./programs.ts";
import type { CalibrationSettings } from "./settings.ts";

/**
 * A path of values through the blocks: the full-precision one, and one per bit group. Values of a batch are replaced as they
 * advance, so that no two generations of a track are held at once.
 */
export type Track = Values[];

/** What tracks advance by. */
export interface Advance {
  readonly recipe: Recipe;
  readonly settings: CalibrationSettings;
  readonly batches: Batches;
  readonly output: string;
  readonly tracks: readonly Track[];
  readonly programs: Programs;
}

/** Runs a finished block on every track: a width per sample and group, drawn afresh; then merges unless tracks stay apart. */
export async function advanceTracks(block: ElasticBlock, advance: Advance, rng: Random): Promise<void> {
  const { recipe, settings, batches, output, tracks, programs } = advance;
  for (const [i, { weights }] of batches.list.entries()) {
    const outputs: Float32Array[] = [];
    for (const [g, widths] of recipe.bitGroups.entries()) {
      outputs.push(await atDrawnWidths(block, tracks[g]?.[i] as Values, widths, batches.batch, rng));
    }
    const merged = settings.inputs === "fused"
      ? await mergeOutputs(programs, settings, batches, outputs, weights, rng)
      : undefined;
    for (const [g, track] of tracks.entries()) {
      track[i] = new Map(track[i] as Values).set(output, merged ?? outputs[g] as Float32Array);
    }
  }
}

/** The outputs of one batch, each sequence at widths of its own. */
async function atDrawnWidths(
  block: ElasticBlock,
  values: Values,
  widths: readonly Width[],
  batch: number,
  rng: Random,
): Promise<Float32Array> {
  const drawn = Array.from({ length: batch }, () => block.draw(widths, rng));
  const outputs = new Map<string, Float32Array>(), keys = drawn.map((each) => JSON.stringify(each));
  for (const [i, each] of drawn.entries()) {
    const key = keys[i] ?? "";
    if (!outputs.has(key)) outputs.set(key, await block.forward(values, each));
  }
  return pickRows(keys.map((key) => outputs.get(key) as Float32Array), batch);
}

async function mergeOutputs(
  { backend, get }: Programs,
  { merge }: CalibrationSettings,
  { batch, tokens }: Batches,
  outputs: readonly Float32Array[],
  tokenWeights: Float32Array,
  rng: Random,
): Promise<Float32Array> {
  const [first] = outputs, channels = (first?.length ?? 0) / (batch * tokens);
  // Without merging the lowest widths' output goes on, as in the published code's plain forward.
  if (merge.kind === "none") return outputs.at(-1) as Float32Array;
  if (merge.kind === "random") {
    const picked = Array.from({ length: batch * tokens }, () => outputs[rng.int(outputs.length)] as Float32Array);
    return pickRows(picked, batch * tokens);
  }
  const pool = createPool(backend), shape = [batch, tokens, channels] as const;
  const run = await get(
    `merge ${JSON.stringify([shape, outputs.length, merge])}`,
    () => mergeProgram(shape, outputs.length, merge),
  );
  const leaves = Object.fromEntries(
    outputs.map((x, g) => [MERGE_INPUTS.group(g), pool.upload(tensorType("f32", shape), x)]),
  );
  if (run.leaves[MERGE_INPUTS.tokenWeights]) {
    leaves[MERGE_INPUTS.tokenWeights] = pool.upload(tensorType("f32", [batch, tokens, 1]), tokenWeights);
  }
  const merged = pool.keep(backend.run(run, leaves).merged as Tensor);
  const values = asFloats(await backend.download(merged)).slice();
  pool.release();
  return values;
}
