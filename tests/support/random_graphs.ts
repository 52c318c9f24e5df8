/**
 * Seeded random graphs, well typed and numerically tame, with values for their leaves: what round trips, gradients and
 * backends are tested on.
 *
 * Tame means two things. Every value carries an interval that it provably stays in; operations whose result could leave
 * ±256 are not taken, and divisors, logarithms and roots only see values of at least 1/4. And by default leaves are
 * multiples of 1/8, and every value knows how many fraction bits it has while it is exact: only exact values are
 * rounded, compared, ranked or cast to integers, so that backends which add in another order still agree on them.
 */
import { type Builder, createBuilder } from "../../ir/builder.ts";
import { type Graph, graphOf, leavesOf, nameOf, type Node } from "../../ir/node.ts";
import { type OpName, OPS } from "../../ir/ops.ts";
import { type Random, random } from "../../ir/random.ts";
import { type DType, isFloat, isNarrow, rangeOf, sameShape, sizeOf, tensorType } from "../../ir/types.ts";
import { MAKERS } from "./random_nodes.ts";

/** What graphs to draw. */
export interface RandomGraphOptions {
  /** Number of draws, each of which adds at most one operation besides the leaves it needs. Default 12. */
  readonly maxNodes?: number;
  /** Operations to draw from. `select` may bring a `compare` along, `attentionGrad` its `attention`. Default: all. */
  readonly ops?: readonly OpName[];
  /** Multiples of 1/8 (default), or any numbers, which keep clear of ties and kinks: for finite differences. */
  readonly values?: "exact" | "real";
  /** Whether arithmetic happens in f16 too, or f16 is only cast from and to (default). */
  readonly half?: boolean;
}

/** A graph and values for its leaves, by name, in row-major order. */
export interface RandomGraph {
  readonly graph: Graph;
  readonly leaves: Readonly<Record<string, Float64Array>>;
}

/** A node and what is known of its elements: lo ≤ x ≤ hi, and x · 2^bits is an integer (no such bits: Infinity). */
export interface Value {
  readonly node: Node;
  readonly lo: number;
  readonly hi: number;
  readonly bits: number;
}

/** What an operation demands of an operand. */
export interface Wanted {
  readonly dtypes?: readonly DType[];
  readonly shape?: readonly number[];
  readonly lo?: number;
  readonly hi?: number;
  /** Needs a value without rounding errors. */
  readonly exact?: boolean;
  readonly accept?: (shape: readonly number[]) => boolean;
}

/** What the makers of nodes work with. */
export interface Maker {
  readonly b: Builder;
  readonly rng: Random;
  readonly floats: readonly DType[];
  /** A value made before that fits, or a fresh leaf. */
  value(wanted?: Wanted): Value;
  /** A value made before that fits, if there is one. */
  find(wanted: Wanted): Value | undefined;
  /** A fresh leaf of a random type that fits. */
  fresh(wanted?: Wanted): Value;
  /** Keeps later nodes from using a value. */
  forget(value: Value): void;
  /** A fresh leaf with the given elements. */
  given(dtype: DType, shape: readonly number[], element: (i: number) => number): Value;
  /** A shape of at most 48 elements. */
  shape(rank?: number): readonly number[];
  /** A name that no other node has. */
  name(): string;
}

/** Values beyond are not built on. */
const LIMIT = 256;
/** Larger values are not built on: graphs are many and the reference is slow. */
const MAX_ELEMENTS = 96;

/** All numeric element types, the f16 rarely. */
export const ANY: readonly DType[] = [
  "f32",
  "f32",
  "f32",
  "i32",
  "i32",
  "f16",
  "u2",
  "u3",
  "u4",
  "u5",
  "u8",
  "i4",
  "i7",
  "i8",
];

/** The graph of a seed: equal seeds and options give equal graphs. */
export function randomGraph(seed: number, options: RandomGraphOptions = {}): RandomGraph {
  const { maxNodes = 12, ops = Object.keys(OPS) as OpName[], values = "exact", half = false } = options;
  const rng = random(seed, "random graph"), b = createBuilder();
  const pool: Value[] = [], data: Record<string, Float64Array> = {};
  let names = 0;

  const shape = (rank = rng.int(4)): readonly number[] => {
    const dims = Array.from({ length: rank }, () => 1 + rng.int(5));
    return sizeOf(dims) <= 48 ? dims : shape(rank);
  };
  const name = () => `v${names++}`;
  const given = (dtype: DType, dims: readonly number[], element: (i: number) => number): Value => {
    const numbers = Float64Array.from({ length: sizeOf(dims) }, (_, i) => element(i)), leaf = name();
    const type = tensorType(dtype, dims), times = ["checkpoint", "calibration", "configuration"] as const;
    const time = times[rng.int(3)] ?? "checkpoint";
    const node = ops.includes("param") && rng.int(2) === 0 ? b.param(leaf, type, time) : b.input(leaf, type);
    data[leaf] = numbers;
    const bits = !isFloat(dtype) ? 0 : numbers.every((x) => Number.isInteger(x * 8)) ? 3 : Infinity;
    const value = { node, lo: Math.min(...numbers), hi: Math.max(...numbers), bits };
    pool.push(value);
    return value;
  };
  const find = ({ dtypes = ANY, shape: dims, lo = -LIMIT, hi = LIMIT, exact = false, accept }: Wanted) => {
    const fitting = pool.filter((value) => {
      const { type } = value.node;
      return dtypes.includes(type.dtype) && (!dims || sameShape(type.shape, dims)) && value.lo >= lo &&
        value.hi <= hi &&
        (!exact || values === "real" || Number.isFinite(value.bits)) && (!accept || accept(type.shape.map(Number)));
    });
    return fitting[fitting.length === 0 ? 0 : rng.int(fitting.length)];
  };
  const fresh = ({ dtypes = ANY, shape: dims, lo, hi, accept }: Wanted = {}): Value => {
    const dtype = dtypes[rng.int(dtypes.length)] ?? "f32", floating = isFloat(dtype);
    const [least, most] = dtype === "bool" ? [0, 1] : isNarrow(dtype) ? rangeOf(dtype) : floating ? [-2, 2] : [-6, 6];
    // An interval beside the usual one: at least 1/4 becomes 1/4 … 9/4.
    const low = Math.max(least, lo ?? least),
      high = Math.max(Math.min(most, hi ?? most), lo === undefined ? least : lo + 2);
    let found = dims ?? shape();
    while (accept && !accept(found)) found = shape();
    return given(dtype, found, () => {
      if (!floating) return Math.ceil(low) + rng.int(Math.floor(high) - Math.ceil(low) + 1);
      return values === "real"
        ? low + (high - low) * rng.uniform()
        : (Math.ceil(low * 8) + rng.int((high - low) * 8)) / 8;
    });
  };
  const floats: readonly DType[] = half ? ["f32", "f32", "f16"] : ["f32"];
  const value = (wanted: Wanted = {}) => (rng.int(4) > 0 ? find(wanted) : undefined) ?? fresh(wanted);
  const forget = (value: Value) => void pool.splice(pool.indexOf(value), 1);
  const maker: Maker = { b, rng, floats, value, find, fresh, forget, given, shape, name };

  for (let i = 0; i < maxNodes; i++) {
    const op = ops[rng.int(ops.length)] ?? "input", made = MAKERS[op](maker, op);
    if (made && Math.max(-made.lo, made.hi) <= LIMIT && sizeOf(made.node.type.shape) <= MAX_ELEMENTS) {
      pool.push(exactness(made, values));
    }
  }
  const used = new Set(pool.flatMap(({ node }) => node.inputs));
  const results = [...new Set(pool.map(({ node }) => node))].filter((node) =>
    node.inputs.length > 0 && !used.has(node)
  );
  const outputs = results.length > 0 ? results : [(pool[0] ?? fresh()).node];
  const graph = graphOf(outputs.map((node, i) => ({ name: `y${i}`, node })));
  const leaves = [...leavesOf(graph, "param"), ...leavesOf(graph, "input")].map(nameOf);
  return { graph, leaves: Object.fromEntries(leaves.map((leaf) => [leaf, data[leaf] ?? new Float64Array()])) };
}

/** Fraction bits count only while the type's significand holds all bits of every value, and of every partial sum. */
function exactness(value: Value, values: "exact" | "real"): Value {
  const { dtype } = value.node.type, significand = dtype === "f16" ? 11 : dtype === "f32" ? 24 : 31;
  const fits = Math.max(-value.lo, value.hi, 1) * 2 ** value.bits <= 2 ** significand;
  return fits && (values === "exact" || !isFloat(dtype)) ? value : { ...value, bits: Infinity };
}
