/**
 * @file Where a block's training starts: at the checkpoint's weights, with clips as the settings say; where the recipe asks for it,
 * with columns scaled and clips searched by what the block's inputs look like (AWQ).
 */
import type { Tensor } from "../../backends/backend.ts";
import { type Call, functionOf, type Module } from "../../ir/module.ts";
import type { Width } from "../../ir/types.ts";
import type { Track } from "./advance_tracks.ts";
import { type BlockInput, openBlock } from "./block.ts";
import type { ColumnScales } from "./column_scales.ts";
import type { InputStatistics } from "./input_statistics.ts";
import { prepareCall } from "./prepare_call.ts";
import { createPool, type Programs } from "./programs.ts";
import { searchClips } from "./search_clips.ts";
import { scaledStatistics, type Scales, searchScales } from "./search_scales.ts";

/** A block before its weights are prepared, and what it is to compute. */
export interface BlockStart {
  readonly programs: Programs;
  readonly elastic: Module;
  readonly call: Call;
  readonly block: Omit<BlockInput, "held">;
  /** Values that each bit group sees, and the outputs of the original block. */
  readonly tracks: readonly Track[];
  readonly targets: readonly Float32Array[];
  readonly statistics: ReadonlyMap<string, InputStatistics>;
}

/** Batches that scales of columns are judged on. */
const SCALE_BATCHES = 4;

/** Finds the scales of a call's columns, each by the losses that untrained blocks have at the narrowest width of every bit group. */
export async function findScales(start: BlockStart, scales: ColumnScales, learned: Float32Array): Promise<void> {
  const { programs, elastic, call, block, tracks, targets, statistics } = start, inputs = scales.inputs(call);
  if (inputs.length === 0) return;
  const input = { programs, load: scales.load }, pool = createPool(programs.backend);
  const { held, again } = await prepareCall(input, elastic, call, pool);
  const opened = openBlock(programs, { ...block, held }, learned);
  const losses = async (tried: Scales): Promise<readonly number[]> => {
    const before = scales.of(call), found: number[] = [];
    const changed = new Set([...tried].filter(([name, s]) => !equal(s, before.get(name))).map(([name]) => name));
    scales.set(call, tried);
    await again(changed);
    for (const [g, widths] of block.recipe.bitGroups.entries()) {
      found.push(await opened.loss(Math.min(...widths) as Width, tracks[g] ?? [], targets, SCALE_BATCHES));
    }
    return found;
  };
  scales.set(call, await searchScales({ inputs, statistics, losses }));
  opened.release();
  pool.release();
}

const equal = (a: Float32Array, b?: Float32Array): boolean => a.every((value, i) => value === b?.[i]);

/** Finds where clips start, and writes them into the learned values. */
export async function findClips(
  { programs, call, elastic, block, statistics }: BlockStart,
  scales: ColumnScales,
  held: Readonly<Record<string, Tensor>>,
  learned: Float32Array,
): Promise<void> {
  const { recipe: { scheme }, settings: { clipStart }, name, layout } = block, inputs = scales.inputs(call);
  const scaled = scaledStatistics({ inputs, statistics }, scales.of(call)), graph = functionOf(elastic, call);
  await searchClips({ programs, graph, name, scheme, clipStart, layout, held, statistics: scaled }, learned);
}
