/**
 * Block-wise calibration (quept-method 1.4, 8): walks a module's calls in order. The target of a block is the output of the
 * original weights on full-precision inputs; what it learns on are the inputs that quantized predecessors leave.
 */
import type { HostArray, Tensor } from "../../backends/backend.ts";
import { type Call, functionOf, type Module } from "../../ir/module.ts";
import { type Random, random } from "../../ir/random.ts";
import { sitesOf } from "../../ir/sites.ts";
import { concreteShape, tensorType, type Width } from "../../ir/types.ts";
import { stage } from "../passes/stage.ts";
import type { Recipe } from "../recipe.ts";
import { asFloats, type Batches, batchesOf, pickRows, type Values } from "./batches.ts";
import { type BlockInput, type ElasticBlock, openBlock } from "./block.ts";
import { initialLearned, type LearnedLayout, learnedLayout, storedValues } from "./learned.ts";
import { MERGE_INPUTS, mergeProgram } from "./merge.ts";
import { type LoadParameter, prepareCall } from "./prepare_call.ts";
import { createPool, type Programs } from "./programs.ts";
import type { CalibrationSettings } from "./settings.ts";
import type { CallStore, StoredTensor } from "./store.ts";

/** Where a calibration is; `step` counts optimiser steps of this block. */
export interface CalibrationProgress {
  readonly block: number;
  readonly blocks: number;
  readonly step: number;
  readonly steps: number;
  /** Mean balanced loss per bit group since the last report. */
  readonly loss: number;
}

/** What a calibration works on. */
export interface CalibrationInput {
  readonly programs: Programs;
  /** The model as `structureModule` and as `elasticModule` made it, of one recipe. */
  readonly structure: Module;
  readonly elastic: Module;
  readonly recipe: Recipe;
  readonly settings: CalibrationSettings;
  readonly load: LoadParameter;
  /** Token ids, each sequence on its own. */
  readonly sequences: readonly Int32Array[];
  readonly seed: number;
  readonly store: CallStore;
  readonly report?: (progress: CalibrationProgress) => void;
}

/**
 * A path of values through the blocks, one entry per batch: the full-precision one, and one per bit group (or one for all). Entries are
 * replaced as they advance, so that no two generations of a track are held at once.
 */
type Track = Values[];

/** Calibrates a module and leaves every call's tensors in the store. */
export async function calibrate(input: CalibrationInput): Promise<void> {
  const { programs, structure, elastic, recipe, settings, sequences, report } = input;
  const batches = batchesOf(sequences.slice(0, settings.sequences), settings.batch, settings.tokens);
  const symbols = { B: batches.batch, T: batches.tokens };
  const start = (): Track =>
    batches.list.map(({ ids, positions }) => new Map<string, HostArray>([["ids", ids], ["positions", positions]]));
  const full = start();
  // Until the first quantized call they are the same values.
  let tracks: readonly Track[] = [];
  const quantized = elastic.calls.map((call) => sitesOf(functionOf(elastic, call)).length > 0);
  const blocks = quantized.filter(Boolean).length, last = quantized.lastIndexOf(true);
  let block = 0;

  for (const [index, call] of elastic.calls.entries()) {
    if (!quantized[index]) {
      const held = await openHolds(input, elastic, call);
      await input.store.save(index, held.stored);
      held.release();
      if (index > last) continue;
    }
    const exact = await openExact(input, structure, structure.calls[index] as Call);
    if (!quantized[index]) {
      for (const track of [full, ...tracks]) await advanceTrack(track, (values) => exact.run(values, symbols));
      exact.release();
      continue;
    }

    if (tracks.length === 0) tracks = recipe.bitGroups.map(() => [...full]);
    const targets: Float32Array[] = [], [output] = Object.values(call.outputs);
    if (output === undefined || Object.keys(call.outputs).length > 1) {
      throw new TypeError(`Cannot calibrate "${call.function}": expected a function with one output`);
    }
    await advanceTrack(full, async (values) => {
      const after = await exact.run(values, symbols);
      targets.push(asFloats(after.get(output) as HostArray));
      return after;
    });
    exact.release();

    const graph = functionOf(elastic, call), layout = learnedLayout(graph, recipe.scheme, recipe.bitGroups.flat());
    const saved = await input.store.load(index);
    const held = await openHolds(input, elastic, call);
    const rng = (what: string) => random(input.seed, `calibration.${call.prefix}${what}`);
    const learned = saved
      ? fromStored(layout, call.prefix, saved)
      : initialLearned(layout, settings.clipStart, rng("start"));
    const bound: BlockInput = {
      graph,
      name: call.function,
      recipe,
      settings,
      layout,
      batches,
      inputs: call.inputs,
      held: held.tensors,
    };
    const opened = openBlock(programs, bound, learned);
    const at = block;
    if (!saved) {
      const steps = settings.epochs * batches.list.length;
      await opened.train(
        tracks,
        targets,
        rng("bits"),
        (step, loss) => report?.({ block: at, blocks, step, steps, loss }),
      );
      const flat = await opened.learned();
      await input.store.save(index, [...held.stored, ...toStored(layout, call.prefix, flat)]);
    }
    if (index < last) {
      await advanceTracks(opened, { recipe, settings, batches, output, tracks, programs }, rng("tracks"));
    }
    opened.release();
    held.release();
    block++;
  }
}

interface Advance {
  readonly recipe: Recipe;
  readonly settings: CalibrationSettings;
  readonly batches: Batches;
  readonly output: string;
  readonly tracks: readonly Track[];
  readonly programs: Programs;
}

/** Runs a finished block on every track: a width per sample and group, drawn afresh; then merges unless tracks stay apart. */
async function advanceTracks(block: ElasticBlock, advance: Advance, rng: Random): Promise<void> {
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

/** A call of the full-precision module with its weights on the backend. */
async function openExact(input: CalibrationInput, module: Module, call: Call) {
  const { programs } = input, { backend } = programs, graph = functionOf(module, call);
  const weights = createPool(backend), held = await prepareCall(input, module, call, weights), step = stage(graph).step;
  return {
    run: async (values: Values, symbols: Readonly<Record<string, number>>): Promise<Values> => {
      const run = await programs.get(`exact ${call.function}`, () => step, symbols), pool = createPool(backend);
      const leaves: Record<string, Tensor> = {};
      for (const [name, type] of Object.entries(run.leaves)) {
        const value = call.inputs[name];
        const tensor = held[name];
        if (tensor) leaves[name] = tensor;
        else if (value !== undefined) leaves[name] = pool.upload(type, values.get(value) as HostArray);
      }
      const after: Values = new Map(values);
      for (const [name, tensor] of Object.entries(backend.run(run, leaves))) {
        const host = await backend.download(pool.keep(tensor));
        after.set(call.outputs[name] ?? name, host.slice());
      }
      pool.release();
      return after;
    },
    release: () => weights.release(),
  };
}

/** A call's checkpoint holds on the backend, and as the artifact stores them. */
async function openHolds(input: CalibrationInput, module: Module, call: Call) {
  const { backend } = input.programs, pool = createPool(backend), stored: StoredTensor[] = [];
  const tensors = await prepareCall(input, module, call, pool);
  for (const [name, tensor] of Object.entries(tensors)) {
    const { dtype, shape } = tensor.type, values = (await backend.download(tensor)).slice();
    stored.push({ name: call.prefix + name, dtype, shape: concreteShape(shape), values });
  }
  return { tensors, stored, release: () => pool.release() };
}

const toStored = (layout: LearnedLayout, prefix: string, flat: Float32Array): StoredTensor[] =>
  layout.tensors.map((tensor) => ({ name: prefix + tensor.name, dtype: "f32", ...storedValues(tensor, flat) }));

/** The flat array of a block that an earlier run finished. */
function fromStored(layout: LearnedLayout, prefix: string, stored: readonly StoredTensor[]): Float32Array {
  const flat = new Float32Array(layout.length),
    byName = new Map(stored.map((tensor) => [tensor.name, tensor]));
  for (const tensor of layout.tensors) {
    const found = byName.get(prefix + tensor.name);
    if (!found) throw new Error(`Internal error in calibration: a finished block lacks "${prefix}${tensor.name}"`);
    // Transposing twice restores the order in memory.
    const [rows = 1, rank = 1] = found.shape;
    const values = tensor.kind === "b" ? transposed(found.values, rows, rank) : found.values;
    flat.set(values, tensor.offset);
  }
  return flat;
}

function transposed(values: HostArray, rows: number, columns: number): Float32Array {
  const result = new Float32Array(values.length);
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) result[c * rows + r] = values[r * columns + c] ?? 0;
  return result;
}

async function advanceTrack(track: Track, change: (values: Values) => Promise<Values>): Promise<void> {
  for (const [i, values] of track.entries()) track[i] = await change(values);
}
