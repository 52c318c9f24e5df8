/** @file What measuring sensitivities and mixtures needs in memory, known before a calibration starts. */
import type { Executable } from "../../backends/backend.ts";
import type { Call } from "../../ir/module.ts";
import { tensorType, type Width } from "../../ir/types.ts";
import { preparation } from "../calibrate/memory.ts";
import {
  compileBench,
  displaced,
  measuredBatch,
  measuredSequences,
  type MeasurePlanInput,
  pathsTogether,
  valueBytes,
  weightSites,
  weightsProgramOf,
} from "./bench.ts";
import { widthsTogether } from "./sensitivity.ts";

/** The planned peak of measuring on its backend, in bytes. */
export interface MeasuringMemory {
  /** Full-precision weights of as many calls as stay, and one call's weights at the widths in hand. */
  readonly weights: number;
  /** Values of all paths that walk through the model together, and those in full precision. */
  readonly values: number;
  /** Intermediate values of the largest program, and working memory of the threads. */
  readonly arena: number;
  readonly scratch: number;
  readonly total: number;
}

/** Weights and values that are alive together. */
interface Moment {
  readonly weights: number;
  readonly values: number;
}

/**
 * Plans the measuring of sensitivities (sensitivity.ts) and of whole allocations (measured_frontier.ts). For blocks of N weights, h
 * bytes of values behind one, W widths and p paths at a time (64, or fewer if h is over 4 MiB):
 *
 *     weights  what `heldBytes` keeps of 4·N per block, and 4·N·W of the block that all paths are at
 *     values   (p + 1)·h + 2·h in full precision
 *
 * With 32 sites or more p allocations are measured at once. Only the part that is kept grows with depth, up to its bound. The programs
 * are compiled for it, and found again by the measuring.
 */
export async function measuringMemory(input: MeasurePlanInput): Promise<MeasuringMemory> {
  const { programs: { backend }, elastic, recipe } = input, widths = recipe.bitGroups.flat();
  const { symbols } = measuredBatch(measuredSequences(input)), tokens = [symbols.B, symbols.T];
  const held = await heldWeights(input);
  await compileBench(input, symbols);
  const start = 2 * backend.bytesOf(tensorType("i32", tokens)) + backend.bytesOf(tensorType("f32", [...tokens, 1]));
  const values = await valueBytes(input, symbols), together = pathsTogether(values, input.pathBytes);
  /** Bytes of all values that calls from `first` to `last` give and that are there behind it. */
  const written = (first: number, last: number): number =>
    sum(new Map(values.slice(first, last + 1).flatMap((own) => [...own])).values());
  const branch = elastic.calls.findIndex((call) => weightSites(elastic, call).length > 0);
  const common = start + written(0, values.length - 1);
  const moments: Moment[] = [{ weights: held.first, values: common }];
  for (const [index, call] of elastic.calls.slice(0, -1).entries()) {
    const sites = weightSites(elastic, call).length;
    if (sites === 0) continue;
    const { raw, made } = await weightBytes(input, call, widths), one = Math.max(...made);
    const longest = Math.max(...values.slice(index).map((_, i) => written(index, index + i)));
    // Sensitivities: weights of one width at a time, their last paths begun; then all paths and the next values of one.
    const alone = common + written(0, index), begun = written(index, index);
    const paths = sites * Math.min(widthsTogether(together, sites), widths.length);
    moments.push({ weights: held.kept + raw + one, values: alone + (paths - sites) * begun });
    moments.push({ weights: held.kept + one, values: alone + paths * begun });
    moments.push({ weights: held.kept, values: alone + (paths + 1) * longest });
    moments.push({ weights: held.again, values: alone + paths * longest });
    // Whole allocations: all widths of a call, the last one in the making, and all paths in front of the call or behind it.
    const before = common + (index > branch ? together * written(branch, index - 1) : 0);
    moments.push({ weights: held.again, values: before });
    moments.push({ weights: held.kept + sum(made) + raw, values: before });
    moments.push({ weights: held.kept + sum(made), values: common + (together + 1) * written(branch, index) });
  }
  const peak = moments.reduce((a, b) => b.weights + b.values > a.weights + a.values ? b : a);
  const { arena, scratch } = backend.workSpace();
  return { ...peak, arena, scratch, total: peak.weights + peak.values + arena + scratch };
}

/**
 * Full-precision weights while they are read call after call, from the last one on to the first again: the most that is kept, and
 * with what they are made of, the first time and whenever displaced ones are made again.
 */
async function heldWeights({ structure, programs, heldBytes }: MeasurePlanInput) {
  const prepared = new Map<string, Awaited<ReturnType<typeof preparation>>>(), held = new Map<number, number>();
  const most = { kept: 0, first: 0, again: 0 };
  for (const time of ["first", "again"] as const) {
    for (const [index, call] of structure.calls.entries()) {
      const own = prepared.get(call.function) ?? await preparation(programs, structure, call);
      prepared.set(call.function, own);
      const known = held.delete(index);
      if (!known) { for (const other of displaced(held, own.held, heldBytes)) held.delete(other); }
      held.set(index, own.held);
      const all = sum(held.values());
      most.kept = Math.max(most.kept, all);
      if (!known) most[time] = Math.max(most[time], all + own.peak - own.held);
    }
  }
  return most;
}

/** What a call's weights take at each width, and what they are made of. */
async function weightBytes({ programs, ...input }: MeasurePlanInput, call: Call, widths: readonly Width[]) {
  const { backend } = programs,
    all = await Promise.all(widths.map((width) => weightsProgramOf({ programs, ...input }, call, width)));
  const bytesOf = (types: Executable["leaves"]) => sum(Object.values(types).map((type) => backend.bytesOf(type)));
  return {
    raw: Math.max(...all.map(({ leaves }) => bytesOf(leaves))),
    made: all.map(({ outputs }) => bytesOf(outputs)),
  };
}

const sum = (numbers: Iterable<number>): number => [...numbers].reduce((a, b) => a + b, 0);
