/** What a block learns, laid out in one flat array: clip logits of every width first, adapters behind them. */
import type { Graph } from "../../ir/node.ts";
import type { Random } from "../../ir/random.ts";
import { type QuantizationScheme, segmentEnds, sitesOf } from "../../ir/sites.ts";
import { sizeOf, type Width } from "../../ir/types.ts";
import type { StoredTensor } from "./store.ts";
import { decodeFactor, encodeFactor, type FactorLayout } from "./stored_factors.ts";

/** One learned tensor in the flat array. Adapters' B is kept transposed, so that a prefix of ranks is a prefix of memory. */
export type LearnedTensor = LearnedClip | LearnedFactor;

interface Placed {
  /** Name as the artifact has it, local to the function: `<weight>.clip.high.<b>`; of factors, which are several tensors there, their prefix. */
  readonly name: string;
  readonly offset: number;
}

/** The logits of a clip, [p,G,1]. */
interface LearnedClip extends Placed {
  readonly kind: "clip";
  readonly shape: readonly number[];
  readonly width: Width;
}

/** A factor of an adapter, A [R,q] or B [R,p], called `<weight>.adapter.<pair>.a` or `….b`. */
interface LearnedFactor extends Placed {
  readonly kind: "factor";
  readonly shape: readonly number[];
  readonly layout: FactorLayout;
}

/** The layout of a function's learned tensors. */
export interface LearnedLayout {
  readonly tensors: readonly LearnedTensor[];
  readonly byName: ReadonlyMap<string, LearnedTensor>;
  /** Elements of the clip part, which comes first. */
  readonly clips: number;
  /** Where the adapters of each pair lie behind it, and how many elements they take. */
  readonly pairs: readonly { readonly pair: string; readonly offset: number; readonly length: number }[];
  /** Elements in all. */
  readonly length: number;
}

/** Offsets are multiples of this, as backends' views demand. */
const ALIGNMENT = 64;
const aligned = (n: number) => Math.ceil(n / ALIGNMENT) * ALIGNMENT;

/**
 * Lays out what the sites of an elastic function learn: clips, then the adapters pair by pair.
 *
 * @param widths the widths that a site learns for, or those that every one does
 */
export function learnedLayout(
  graph: Graph,
  scheme: QuantizationScheme,
  widths: readonly Width[] | ((site: string) => readonly Width[]),
): LearnedLayout {
  const widthsOf = typeof widths === "function" ? widths : () => widths;
  const weights = sitesOf(graph).filter(({ role }) => role === "weight");
  const adapted = new Set(sitesOf(graph).filter(({ role }) => role === "adapter").map(({ name }) => name));
  const tensors: LearnedTensor[] = [];
  let offset = 0;
  const add = (tensor: Omit<LearnedClip, "offset"> | Omit<LearnedFactor, "offset">) => {
    tensors.push({ ...tensor, offset });
    offset = aligned(offset + sizeOf(tensor.shape));
  };
  for (const { name, type } of weights) {
    const [rows = 1, columns = 1] = type.shape.map(Number);
    for (const width of widthsOf(name)) {
      const size = scheme.groupSizes[width], groups = size === -1 || size >= columns ? 1 : Math.ceil(columns / size);
      for (const end of ["high", "low"]) {
        add({ name: `${name}.clip.${end}.${width}`, kind: "clip", shape: [rows, groups, 1], width });
      }
    }
  }
  const clips = offset;
  const uses = (name: string, wanted: string) =>
    widthsOf(name).some((width) => {
      const { pair, rank } = scheme.adapters.uses[width];
      return rank > 0 && pair === wanted;
    });
  const pairs: { pair: string; offset: number; length: number }[] = [];
  for (const [pair, rank] of Object.entries(scheme.adapters.pairs)) {
    const start = offset;
    for (const { name, type } of weights) {
      if (!adapted.has(name) || !uses(name, pair)) continue;
      const [rows = 1, columns = 1] = type.shape.map(Number);
      const factor = (part: "a" | "b", side: FactorLayout["side"], n: number) =>
        add({
          name: `${name}.adapter.${pair}.${part}`,
          kind: "factor",
          shape: [rank, n],
          layout: { side, ends: segmentEnds(scheme.adapters, pair), rows: n },
        });
      factor("a", "right", columns);
      factor("b", "left", rows);
    }
    if (offset > start) pairs.push({ pair, offset: start, length: offset - start });
  }
  // Backends' tensors are not empty, even where all sites are in full precision.
  const length = Math.max(offset, ALIGNMENT);
  return { tensors, byName: new Map(tensors.map((tensor) => [tensor.name, tensor])), clips, pairs, length };
}

/**
 * Start values: clips at their logits, A Xavier-uniform unless `startAdapters` has better, B zero, so that the adapter starts at
 * exactly zero (4.3).
 */
export function initialLearned(
  layout: LearnedLayout,
  clipStart: Readonly<Record<Width, number>>,
  rng: Random,
): Float32Array {
  const values = new Float32Array(layout.length);
  for (const tensor of layout.tensors) {
    const part = partOf(tensor, values);
    if (tensor.kind === "clip") part.fill(clipStart[tensor.width]);
    else if (tensor.layout.side === "right") {
      const [rank = 1, columns = 1] = tensor.shape, limit = Math.sqrt(6 / (rank + columns));
      for (let i = 0; i < part.length; i++) part[i] = (2 * rng.uniform() - 1) * limit;
    }
  }
  return values;
}

/** All learned tensors as the artifact stores them, under global names; factors are rounded to codes. */
export const storedLearned = (layout: LearnedLayout, prefix: string, flat: Float32Array): StoredTensor[] =>
  layout.tensors.flatMap((tensor): StoredTensor[] => {
    const name = prefix + tensor.name, values = partOf(tensor, flat);
    return tensor.kind === "clip"
      ? [{ name, dtype: "f32", shape: tensor.shape, values: values.slice() }]
      : Object.values(encodeFactor(name, values, tensor.layout));
  });

/** The flat array of a block, as what is stored of it has it. */
export function restoredLearned(layout: LearnedLayout, prefix: string, stored: readonly StoredTensor[]): Float32Array {
  const flat = new Float32Array(layout.length), byName = new Map(stored.map(({ name, values }) => [name, values]));
  const find = (name: string) => {
    const found = byName.get(prefix + name);
    if (!found) throw new Error(`Internal error in calibration: a finished block lacks "${prefix}${name}"`);
    return found;
  };
  for (const tensor of layout.tensors) {
    const { name } = tensor;
    partOf(tensor, flat).set(
      tensor.kind === "clip" ? find(name) : decodeFactor(find(`${name}.codes`), find(`${name}.scale`), tensor.layout),
    );
  }
  return flat;
}

const partOf = ({ offset, shape }: LearnedTensor, flat: Float32Array): Float32Array =>
  flat.subarray(offset, offset + sizeOf(shape));
