/** What a block learns, laid out in one flat array: clip logits of every width first, adapters behind them. */
import type { HostArray } from "../../backends/backend.ts";
import type { Graph } from "../../ir/node.ts";
import type { Random } from "../../ir/random.ts";
import { type QuantizationScheme, sitesOf } from "../../ir/sites.ts";
import type { Width } from "../../ir/types.ts";
import type { StoredTensor } from "./store.ts";

/** One learned tensor in the flat array. Adapters' B is kept transposed, so that a prefix of ranks is a prefix of memory. */
export interface LearnedTensor {
  /** Name as the artifact has it, local to the function: `<weight>.clip.high.<b>`, `<weight>.adapter.<pair>.a`. */
  readonly name: string;
  readonly kind: "clip" | "a" | "b";
  /** Shape in the flat array: clips [p,G,1], A [R,q], B [R,p]. */
  readonly shape: readonly number[];
  readonly offset: number;
  readonly width?: Width;
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

/** Lays out what the sites of an elastic function learn for the given widths: clips, then the adapters pair by pair. */
export function learnedLayout(graph: Graph, scheme: QuantizationScheme, widths: readonly Width[]): LearnedLayout {
  const weights = sitesOf(graph).filter(({ role }) => role === "weight");
  const adapted = new Set(sitesOf(graph).filter(({ role }) => role === "adapter").map(({ name }) => name));
  const tensors: LearnedTensor[] = [];
  let offset = 0;
  const add = (tensor: Omit<LearnedTensor, "offset">) => {
    tensors.push({ ...tensor, offset });
    offset = aligned(offset + tensor.shape.reduce((a, b) => a * b, 1));
  };
  for (const { name, type } of weights) {
    const [rows = 1, columns = 1] = type.shape.map(Number);
    for (const width of widths) {
      const size = scheme.groupSizes[width], groups = size === -1 || size >= columns ? 1 : Math.ceil(columns / size);
      for (const end of ["high", "low"]) {
        add({ name: `${name}.clip.${end}.${width}`, kind: "clip", shape: [rows, groups, 1], width });
      }
    }
  }
  const clips = offset;
  const used = new Set(widths.flatMap((width) => {
    const { pair, rank } = scheme.adapters.uses[width];
    return rank > 0 ? [pair] : [];
  }));
  const pairs: { pair: string; offset: number; length: number }[] = [];
  for (const [pair, rank] of Object.entries(scheme.adapters.pairs)) {
    if (!used.has(pair)) continue;
    const start = offset;
    for (const { name, type } of weights) {
      if (!adapted.has(name)) continue;
      const [rows = 1, columns = 1] = type.shape.map(Number);
      add({ name: `${name}.adapter.${pair}.a`, kind: "a", shape: [rank, columns] });
      add({ name: `${name}.adapter.${pair}.b`, kind: "b", shape: [rank, rows] });
    }
    pairs.push({ pair, offset: start, length: offset - start });
  }
  return { tensors, byName: new Map(tensors.map((tensor) => [tensor.name, tensor])), clips, pairs, length: offset };
}

/** Start values: clips at their logits, A Xavier-uniform, B zero, so that the adapter starts at exactly zero (4.3). */
export function initialLearned(
  layout: LearnedLayout,
  clipStart: Readonly<Record<Width, number>>,
  rng: Random,
): Float32Array {
  const values = new Float32Array(layout.length);
  for (const { kind, shape, offset, width } of layout.tensors) {
    const part = values.subarray(offset, offset + shape.reduce((a, b) => a * b, 1));
    if (kind === "clip") part.fill(width === undefined ? 4 : clipStart[width]);
    if (kind !== "a") continue;
    const [rank = 1, columns = 1] = shape, limit = Math.sqrt(6 / (rank + columns));
    for (let i = 0; i < part.length; i++) part[i] = (2 * rng.uniform() - 1) * limit;
  }
  return values;
}

/** A learned tensor as the artifact stores it: B back to [p,R]. */
export function storedValues(
  tensor: LearnedTensor,
  flat: Float32Array,
): { shape: readonly number[]; values: Float32Array } {
  const [rank = 1, rows = 1] = tensor.shape;
  const part = flat.slice(tensor.offset, tensor.offset + tensor.shape.reduce((a, b) => a * b, 1));
  if (tensor.kind !== "b") return { shape: tensor.shape, values: part };
  return { shape: [rows, rank], values: transposed(part, rank, rows) };
}

/** All learned tensors as the artifact stores them, under global names. */
export const storedLearned = (layout: LearnedLayout, prefix: string, flat: Float32Array): StoredTensor[] =>
  layout.tensors.map((tensor) => ({ name: prefix + tensor.name, dtype: "f32", ...storedValues(tensor, flat) }));

/** The flat array of a block that an earlier run finished. */
export function restoredLearned(layout: LearnedLayout, prefix: string, stored: readonly StoredTensor[]): Float32Array {
  const flat = new Float32Array(layout.length), byName = new Map(stored.map((tensor) => [tensor.name, tensor]));
  for (const tensor of layout.tensors) {
    const found = byName.get(prefix + tensor.name);
    if (!found) throw new Error(`Internal error in calibration: a finished block lacks "${prefix}${tensor.name}"`);
    // Transposing twice restores the order in memory.
    const [rows = 1, rank = 1] = found.shape;
    flat.set(tensor.kind === "b" ? transposed(found.values, rows, rank) : found.values, tensor.offset);
  }
  return flat;
}

function transposed(values: HostArray, rows: number, columns: number): Float32Array {
  const result = new Float32Array(values.length);
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) result[c * rows + r] = values[r * columns + c] ?? 0;
  return result;
}
