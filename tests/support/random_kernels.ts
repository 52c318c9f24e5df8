/**
 * Seeded random kernel specifications of every kind with buffers to match, for tests of code generators.
 *
 * Expressions are of two sorts. Exact ones stay within small multiples of 1/64, so that f32 computes them without rounding and
 * whatever rounds, compares or casts them has one right answer. Smooth ones use every function and are compared with a tolerance.
 */
import * as fc from "fast-check";
import type { HostArray } from "../../backends/backend.ts";
import { hostArray } from "../../backends/backend.ts";
import type {
  Access,
  AttentionKernel,
  Expr,
  KernelBuffer,
  KernelSpec,
  RowPhase,
  Scalar,
  Store,
} from "../../backends/kernel.ts";
import { type Direction, DIRECTIONS } from "../../ir/ops/maps.ts";
import type { MapOp } from "../../ir/ops.ts";
import { type Random, random } from "../../ir/random.ts";
import { type DType, isFloat, rangeOf, tensorType } from "../../ir/types.ts";

/** A kernel and values for all of its buffers. */
export interface RandomKernel {
  readonly spec: KernelSpec;
  readonly buffers: HostArray[];
}

/** Random kernels of one kind; counterexamples are named by their seed. */
export const randomKernels = (kind: KernelSpec["kind"]): fc.Arbitrary<RandomKernel> =>
  fc.noShrink(fc.integer({ min: 0, max: 2 ** 31 - 1 })).map((seed) => randomKernel(kind, seed));

/** The random kernel of a kind with a seed. */
export function randomKernel(kind: KernelSpec["kind"], seed: number): RandomKernel {
  const draft = createDraft(random(seed, `kernel.${kind}`));
  const spec = BUILD[kind](draft);
  return { spec, buffers: draft.values };
}

const BUILD = { map: mapKernel, row: rowKernel, dot: dotKernel, attention: attentionKernel, topK: topKKernel };

/** Types that hold codes. */
export const NARROW = ["u2", "u3", "u4", "u5", "u6", "u7", "u8", "i4", "i5", "i6", "i7", "i8"] as const;
const MOST_BUFFERS = 8;

interface Draft {
  readonly draw: Random;
  readonly buffers: KernelBuffer[];
  readonly values: HostArray[];
  /** Adds a buffer, filled with random values unless it is only written, and returns its index. */
  buffer(name: string, use: KernelBuffer["use"], dtype: DType, shape: readonly number[], value?: () => number): number;
}

function createDraft(draw: Random): Draft {
  const buffers: KernelBuffer[] = [], values: HostArray[] = [];
  return {
    draw,
    buffers,
    values,
    buffer(name, use, dtype, shape, value = () => exactValue(draw, dtype)) {
      const data = hostArray(dtype, size(shape));
      if (use !== "write") { for (let i = 0; i < data.length; i++) data[i] = value(); }
      values.push(data);
      return buffers.push({ name: `${name}.${buffers.length}`, type: tensorType(dtype, shape), use }) - 1;
    },
  };
}

function exactValue(draw: Random, dtype: DType): number {
  if (isFloat(dtype)) return (draw.int(65) - 32) / 8;
  if (dtype === "bool") return draw.int(2);
  const [low, high] = dtype === "i32" ? [-9, 9] : rangeOf(dtype);
  return low + draw.int(high - low + 1);
}

const size = (shape: readonly number[]): number => shape.reduce((n, dim) => n * dim, 1);
const pick = <T>(draw: Random, list: readonly T[]): T => list[draw.int(list.length)] as T;
const chance = (draw: Random, share: number): boolean => draw.uniform() < share;

const rowMajor = (shape: readonly number[]): number[] => shape.map((_, i) => size(shape.slice(i + 1)));

/** A random order of 0 … n-1, the natural one half of the time. */
function order(draw: Random, n: number): number[] {
  const axes = Array.from({ length: n }, (_, i) => i);
  if (chance(draw, 0.5)) return axes;
  return axes.map((axis) => ({ axis, key: draw.uniform() })).sort((a, b) => a.key - b.key).map(({ axis }) => axis);
}

// ---- expressions ----

/** A constant of f32. */
export const number = (value: number): Expr => ({ kind: "constant", value, scalar: "f32" });
/** A constant of i32. */
export const integer = (value: number): Expr => ({ kind: "constant", value, scalar: "i32" });
/** An elementwise operation with the type of its last operand. */
export function apply(op: MapOp, ...args: Expr[]): Expr {
  return { kind: "map", op, args, scalar: args.at(-1)?.scalar ?? "f32" };
}
/** A comparison. */
export const compare = (a: Expr, b: Expr, direction: Direction): Expr => ({
  kind: "map",
  op: "compare",
  args: [a, b],
  scalar: "bool",
  direction,
});
/** A cast to f32, or to i32 within the range of a type. */
export const cast = (x: Expr, dtype: DType): Expr =>
  dtype === "f32"
    ? { kind: "map", op: "cast", args: [x], scalar: "f32" }
    : { kind: "map", op: "cast", args: [x], scalar: "i32", range: rangeOf(dtype) };
/** Rounded to the nearest half. */
export const nearestHalf = (x: Expr): Expr => ({ kind: "map", op: "cast", args: [x], scalar: "f32", half: true });
/** A value that the kernel computed before. */
export const valueOf = (id: number, scalar: Scalar = "f32"): Expr => ({ kind: "value", id, scalar });

/** How a type is read. */
export const scalarOf = (dtype: DType): Scalar => isFloat(dtype) ? "f32" : dtype === "bool" ? "bool" : "i32";

/** A load of a new buffer over some axes of the loop, in a random order, often a slice of a larger one. */
function load(
  draft: Draft,
  extents: readonly number[],
  dtype: DType,
  axes?: readonly number[],
  value?: () => number,
): Expr {
  const { draw } = draft;
  const chosen = axes ?? order(draw, extents.length).filter(() => chance(draw, 0.8));
  const shape = chosen.map((axis) => extents[axis] ?? 1), strides = rowMajor(shape);
  const lead = chance(draw, 0.2) ? draw.int(2) : 0;
  const buffer = draft.buffer(dtype, "read", dtype, [1 + lead, ...shape], value);
  const access = { offset: lead * size(shape), strides: extents.map((_, i) => strides[chosen.indexOf(i)] ?? 0) };
  return { kind: "load", buffer, access, scalar: scalarOf(dtype) };
}

interface Sources {
  readonly extents: readonly number[];
  /** Buffers that stay free for what is still to come. */
  readonly reserve: number;
  /** Expressions that may be used again: shared objects. */
  readonly pool: Expr[];
}

function leaf(draft: Draft, from: Sources): Expr {
  const { draw } = draft, full = draft.buffers.length + from.reserve >= MOST_BUFFERS;
  if (from.pool.length > 0 && (full || chance(draw, 0.3))) return pick(draw, from.pool);
  if (full) return number(exactValue(draw, "f32"));
  const made = freshLeaf(draft, from);
  from.pool.push(made);
  return made;
}

function freshLeaf(draft: Draft, { extents, reserve }: Sources): Expr {
  const { draw } = draft;
  switch (draw.int(7)) {
    case 0:
      return load(draft, extents, "f16");
    case 1: // dequantized codes
      return apply(
        "mul",
        apply("sub", cast(load(draft, extents, pick(draw, NARROW)), "f32"), number(draw.int(5))),
        number(1 / 8),
      );
    case 2: {
      const strides = extents.map(() => draw.int(3));
      return apply(
        "mul",
        cast({ kind: "index", access: { offset: draw.int(5) - 2, strides }, scalar: "i32" }, "f32"),
        number(1 / 8),
      );
    }
    case 3:
      return cast(load(draft, extents, "bool"), "f32");
    case 4: {
      if (draft.buffers.length + reserve + 2 > MOST_BUFFERS) return load(draft, extents, "f32");
      const rows = 2 + draw.int(3), axis = draw.int(Math.max(extents.length, 1)), inner = extents[axis] ?? 1;
      const dtype = pick(draw, ["f32", "f16", "u4", "i8", "u3"] as const);
      const table = draft.buffer("table", "read", dtype, [rows, inner]);
      const index = load(draft, extents, "i32", undefined, () => draw.int(rows + 4) - 2);
      const access = { offset: 0, strides: extents.map((_, i) => i === axis ? 1 : 0) };
      const read: Expr = {
        kind: "gather",
        buffer: table,
        index,
        extent: rows,
        stride: inner,
        access,
        scalar: scalarOf(dtype),
      };
      return isFloat(dtype) ? read : apply("mul", cast(read, "f32"), number(1 / 8));
    }
    default:
      return load(draft, extents, "f32");
  }
}

/** A f32 expression without rounding errors. */
function exact(draft: Draft, from: Sources, depth: number): Expr {
  const { draw } = draft;
  if (depth === 0) return leaf(draft, from);
  const next = () => exact(draft, from, depth - 1);
  switch (draw.int(10)) {
    case 0:
      return apply("sub", next(), next());
    case 8: // of subnormal halves, to multiples of 1/16
      return apply("mul", nearestHalf(apply("mul", next(), number(2 ** -20))), number(2 ** 20));
    case 1:
      return apply("minimum", next(), next());
    case 2:
      return apply("maximum", next(), next());
    case 3:
      return apply("mul", next(), number(pick(draw, [-0.5, 2, -1])));
    case 4:
      return apply(pick(draw, ["round", "floor", "abs"] as const), next());
    case 5:
      return apply("select", compare(next(), next(), pick(draw, DIRECTIONS)), next(), next());
    case 6:
      return cast(cast(next(), pick(draw, ["i32", "u4", "i4", "u2"] as const)), "f32");
    case 7:
      return apply("straightThrough", next(), next());
    default:
      return apply("add", next(), next());
  }
}

/** A f32 expression of moderate size that is smooth in its exact parts. */
function smooth(draft: Draft, from: Sources, depth: number): Expr {
  const { draw } = draft;
  if (depth === 0) return exact(draft, from, 1);
  const next = () => smooth(draft, from, depth - 1);
  const positive = () => apply("add", apply("abs", next()), number(0.5));
  switch (draw.int(8)) {
    case 0:
      return apply("exp", apply("minimum", next(), number(2)));
    case 1:
      return apply("log", positive());
    case 2:
      return apply("sqrt", positive());
    case 3:
      return apply("erf", next());
    case 4:
      return apply("sigmoid", next());
    case 5:
      return apply("div", next(), positive());
    case 6:
      return apply("mul", next(), apply("sigmoid", next()));
    default:
      return apply("add", next(), exact(draft, from, 1));
  }
}

// ---- kernels ----

const EXTENTS = [1, 2, 3, 4, 5, 6, 8, 12, 16, 17, 32, 33, 36, 64];

function extentsWithin(draw: Random, axes: number, limit: number): number[] {
  const extents: number[] = [];
  for (let i = 0; i < axes; i++) extents.push(pick(draw, EXTENTS.filter((n) => n * size(extents) <= limit)));
  return extents;
}

/** A store to a new buffer that every point of the loop writes one element of. */
function storeAll(draft: Draft, extents: readonly number[], dtype: DType, value: Expr): Store {
  const { draw } = draft, axes = order(draw, extents.length), shape = axes.map((axis) => extents[axis] ?? 1);
  const strides = rowMajor(shape), lead = chance(draw, 0.2) ? 1 : 0;
  const buffer = draft.buffer("result", "write", dtype, [1 + lead, ...shape]);
  return {
    buffer,
    access: { offset: lead * size(shape), strides: extents.map((_, i) => strides[axes.indexOf(i)] ?? 0) },
    value,
  };
}

/** A store of rows into a cache at positions some of which lie outside; extents are [B, T, …]. */
function storeScattered(draft: Draft, extents: readonly number[], dtype: DType, value: Expr): Store {
  const { draw } = draft, [B = 1, T = 1, ...inner] = extents, places = T + draw.int(3), width = size(inner);
  const cache = draft.buffer("cache", "update", dtype, [B, places, ...inner]);
  const strides = [places * width, 0, ...rowMajor(inner)];
  const rows = Array.from({ length: places + 2 }, (_, i) => i - 1); // -1 and `places` lie outside
  const start = draw.int(rows.length - T + 1);
  const positions = draft.buffer("positions", "read", "i32", [B, T]);
  draft.values[positions]?.forEach((_, i, all) => all[i] = rows[start + i % T] ?? 0);
  const index: Expr = {
    kind: "load",
    buffer: positions,
    access: { offset: 0, strides: [T, 1, ...inner.map(() => 0)] },
    scalar: "i32",
  };
  return { buffer: cache, access: { offset: 0, strides }, value, scatter: { index, extent: places, stride: width } };
}

/** A value for a buffer of some type: exact and in range for codes. */
function valueFor(draft: Draft, from: Sources, dtype: DType): Expr {
  if (dtype === "bool") return compare(exact(draft, from, 1), exact(draft, from, 1), pick(draft.draw, DIRECTIONS));
  if (dtype === "f16") return exact(draft, from, 1);
  if (dtype !== "f32") return cast(exact(draft, from, 2), dtype);
  return chance(draft.draw, 0.5) ? exact(draft, from, 3) : smooth(draft, from, 2);
}

function mapKernel(draft: Draft): KernelSpec {
  const { draw } = draft, dims = extentsWithin(draw, 2 + draw.int(3), 1500), stores: Store[] = [];
  const from: Sources = { extents: dims, reserve: 3, pool: [] }, sort = draw.int(3);
  const types = ["f32", "f32", "f16", "i32", "bool", ...NARROW] as const;
  if (sort === 0) {
    const dtype = pick(draw, types);
    stores.push(storeScattered(draft, dims, dtype, valueFor(draft, from, dtype)));
  } else if (sort === 1) {
    const state = draft.buffer("state", "update", "f32", dims), access = { offset: 0, strides: rowMajor(dims) };
    const old: Expr = { kind: "load", buffer: state, access, scalar: "f32" };
    stores.push({ buffer: state, access, value: apply("add", apply("mul", old, number(0.5)), exact(draft, from, 1)) });
    from.pool.push(old);
  }
  const dtype = pick(draw, types), value = valueFor(draft, { ...from, reserve: 1 }, dtype);
  stores.push(storeAll(draft, dims, dtype, value));
  return { kind: "map", name: "map", fuses: "random maps", buffers: draft.buffers, dims, stores };
}

const ROW_LENGTHS = [1, 3, 12, 16, 20, 32, 40, 64, 96, 128, 172, 256, 320];

/** Loads over every axis of a loop, rows innermost or not. */
const everyAxis = (draw: Random, n: number): number[] => order(draw, n);

function rowKernel(draft: Draft): KernelSpec {
  const { draw } = draft, folded = chance(draw, 0.2);
  const row = folded ? [1 + draw.int(5), 1 + draw.int(9)] : [pick(draw, ROW_LENGTHS)], n = size(row);
  const outer = extentsWithin(draw, 1 + draw.int(2), Math.max(1, Math.floor(1500 / n)));
  const phases = chance(draw, 0.5) ? quantizer(draft, outer, row) : normalisation(draft, outer, row);
  return { kind: "row", name: "row", fuses: "random rows", buffers: draft.buffers, outer, row, phases };
}

const EMPTY: RowPhase = { elements: [], reductions: [], stores: [], scalars: [], transforms: [], rowStores: [] };
const over = (extents: readonly number[]): Access => ({ offset: 0, strides: rowMajor(extents) });

/** Smooth: x -> signs, Hadamard -> x · rms -> softmax, with sums, extrema and every kind of store. */
function normalisation(draft: Draft, outer: readonly number[], row: readonly number[]): RowPhase[] {
  const { draw } = draft, extents = [...outer, ...row], n = size(row);
  const all = everyAxis(draw, extents.length);
  const x = load(draft, extents, pick(draw, ["f32", "f16"] as const), all);
  const factor = row.length === 1 && (n & 3) === 0 && n !== 172 && chance(draw, 0.7);
  const signs = factor && chance(draw, 0.5) ? draft.buffer("signs", "read", "f32", [n], () => draw.sign()) : undefined;
  const transforms = factor
    ? [{ id: 2, source: 1, transposed: chance(draw, 0.5), ...(signs === undefined ? {} : { signs }) }]
    : [];
  const y = valueOf(factor ? 2 : 1), from = { extents, reserve: 5, pool: [] };
  const gamma = load(draft, extents, "f32", [extents.length - 1]);
  const rowStore = (dtype: DType, value: Expr): Store => ({
    buffer: draft.buffer("perRow", "write", dtype, outer.length > 0 ? outer : [1]),
    access: over(outer),
    value,
  });
  return [
    {
      ...EMPTY,
      elements: [{ id: 0, value: apply("mul", x, number(0.5)), keep: false }, {
        id: 1,
        value: apply("add", valueOf(0), exact(draft, from, 1)),
        keep: true,
      }],
      reductions: [{ id: 3, op: "sum", value: apply("mul", valueOf(1), valueOf(1)), scalar: "f32" }],
      scalars: [
        { id: 4, value: apply("add", apply("mul", valueOf(3), number(1 / n)), number(0.5)) },
        { id: 5, value: apply("div", number(1), apply("sqrt", valueOf(4))) },
      ],
      transforms,
      rowStores: chance(draw, 0.5) ? [rowStore("f32", valueOf(3))] : [],
    },
    {
      ...EMPTY,
      elements: [{ id: 6, value: apply("mul", apply("mul", y, valueOf(5)), gamma), keep: true }],
      reductions: [
        { id: 7, op: "max", value: valueOf(6), scalar: "f32" },
        { id: 8, op: "min", value: apply("abs", valueOf(6)), scalar: "f32" },
      ],
      stores: chance(draw, 0.5) ? [storeAll(draft, extents, "f32", valueOf(6))] : [],
    },
    {
      ...EMPTY,
      elements: [{ id: 9, value: apply("exp", apply("sub", valueOf(6), valueOf(7))), keep: chance(draw, 0.5) }],
      reductions: [{ id: 10, op: "sum", value: valueOf(9), scalar: "f32" }],
      scalars: [{ id: 11, value: apply("add", apply("log", valueOf(10)), apply("add", valueOf(7), valueOf(8))) }],
      stores: [storeAll(draft, extents, "f32", valueOf(9))],
      rowStores: draft.buffers.length < MOST_BUFFERS ? [rowStore("f32", valueOf(11))] : [],
    },
  ];
}

/** Exact: codes of x with a step and a zero point per row, their sum, a transform of length 4^k before them at times. */
function quantizer(draft: Draft, outer: readonly number[], row: readonly number[]): RowPhase[] {
  const { draw } = draft, extents = [...outer, ...row], n = size(row), rowAxes = row.map(() => 0);
  const natural = extents.map((_, i) => i), all = chance(draw, 0.7) ? natural : everyAxis(draw, extents.length);
  const x = load(draft, extents, "f32", all);
  const rotate = row.length === 1 && (n === 16 || n === 64 || n === 256);
  const perRow = (dtype: DType, value: () => number): Expr => load(draft, outer, dtype, outer.map((_, i) => i), value);
  const step = perRow("f32", () => 2 ** (draw.int(3) - 2)), narrow = pick(draw, NARROW);
  const wide = (expr: Expr): Expr =>
    expr.kind === "load"
      ? { ...expr, access: { ...expr.access, strides: [...expr.access.strides, ...rowAxes] } }
      : expr;
  const code = cast(
    apply("add", apply("round", apply("div", valueOf(rotate ? 2 : 1), wide(step))), valueOf(4)),
    narrow,
  );
  const scattered = outer.length === 2 && chance(draw, 0.5);
  const codes = scattered
    ? storeScattered(draft, extents, narrow, valueOf(6, "i32"))
    : storeAll(draft, extents, narrow, valueOf(6, "i32"));
  const shape = outer.length > 0 ? outer : [1];
  const rowStore = (dtype: DType, value: Expr): Store => ({
    buffer: draft.buffer("perRow", "write", dtype, shape),
    access: over(outer),
    value,
  });
  return [
    {
      ...EMPTY,
      elements: [{ id: 1, value: x, keep: true }],
      reductions: [
        { id: 3, op: "max", value: valueOf(1), scalar: "f32" },
        { id: 5, op: "min", value: cast(apply("mul", valueOf(1), number(8)), "i32"), scalar: "i32" },
      ],
      scalars: [{ id: 4, value: apply("round", apply("mul", valueOf(3), number(0.5))) }],
      transforms: rotate ? [{ id: 2, source: 1, transposed: chance(draw, 0.5) }] : [],
    },
    {
      ...EMPTY,
      elements: [{ id: 6, value: code, keep: false }],
      reductions: [{ id: 7, op: "sum", value: valueOf(6, "i32"), scalar: "i32" }],
      stores: [codes],
      rowStores: [
        rowStore("i32", apply("add", valueOf(7, "i32"), valueOf(5, "i32"))),
        rowStore("f16", valueOf(4)),
        rowStore(pick(draw, NARROW), cast(valueOf(4), "u2")),
      ].slice(0, MOST_BUFFERS - draft.buffers.length + 3).map((store) => fitting(draft, store)),
    },
  ];
}

/** Keeps a store's value within the type of its buffer. */
function fitting(draft: Draft, store: Store): Store {
  const dtype = draft.buffers[store.buffer]?.type.dtype ?? "f32";
  return store.value.scalar === "i32" ? { ...store, value: cast(store.value, dtype) } : store;
}

/** Operands of a contraction over [b, rows, ...k] with at most two buffers each. */
function operand(draft: Draft, extents: readonly number[], scalar: "f32" | "i32"): Expr {
  const { draw } = draft, last = extents.length - 1, natural = extents.map((_, i) => i);
  const axes = chance(draw, 0.6) ? natural : [0, ...order(draw, last).map((axis) => axis + 1)];
  if (scalar === "i32") {
    const codes = load(draft, extents, pick(draw, [...NARROW, "i32"] as const), axes);
    return chance(draw, 0.5) ? codes : apply("sub", codes, integer(draw.int(9)));
  }
  if (chance(draw, 0.4)) return load(draft, extents, pick(draw, ["f32", "f16"] as const), axes);
  const codes = cast(load(draft, extents, pick(draw, NARROW), axes), "f32");
  const scales = load(draft, extents, "f32", natural.slice(0, last), () => 2 ** -draw.int(4));
  return apply("mul", apply("sub", codes, number(draw.int(9))), scales);
}

function dotKernel(draft: Draft): KernelSpec {
  const { draw } = draft, grouped = chance(draw, 0.35), scalar = chance(draw, 0.35) ? "i32" : "f32";
  const batch = pick(draw, [1, 1, 1, 2, 3]);
  const [m, n] = pick(draw, [[1, 24], [3, 33], [2, 5], [17, 3], [20, 36], [37, 18], [70, 66], [8, 64]] as const);
  const k = grouped
    ? [pick(draw, [1, 2, 5, 16]), pick(draw, [8, 32, 6])]
    : pick(draw, [[1], [7], [16], [36], [64], [100], [172], [3, 5], [4, 12], [2, 2, 8]] as const);
  const lhs = operand(draft, [batch, m, ...k], scalar), rhs = operand(draft, [batch, n, ...k], scalar);
  const all = [batch, m, n], from = { extents: all, reserve: 3, pool: [] };
  const sum = valueOf(0, grouped ? "f32" : scalar), result = sum.scalar === "f32" ? sum : cast(sum, "f32");
  const term = (): Expr => {
    const inner = valueOf(1, scalar), scales = load(draft, [...all, k[0] ?? 1], "f32", [2, 3], () => 2 ** -draw.int(3));
    return apply("mul", scalar === "f32" ? inner : cast(inner, "f32"), scales);
  };
  const groups = grouped ? { groups: { inner: 1, term: term() } } : {};
  const stores: Store[] = [];
  if (sum.scalar === "i32" && chance(draw, 0.5)) stores.push(storeAll(draft, all, "i32", sum));
  if (chance(draw, 0.2)) {
    const dtype = pick(draw, NARROW);
    stores.push(storeAll(draft, all, dtype, cast(apply("mul", result, number(1 / 4)), dtype)));
  }
  if (stores.length === 0 || chance(draw, 0.5)) {
    stores.push(storeAll(draft, all, "f32", apply("add", result, chance(draw, 0.5) ? leaf(draft, from) : number(0))));
  }
  return {
    kind: "dot",
    name: "dot",
    fuses: "random contraction",
    buffers: draft.buffers,
    batch,
    m,
    n,
    k,
    scalar,
    lhs,
    rhs,
    accumulator: 0,
    ...groups,
    stores,
  };
}

function attentionKernel(draft: Draft): KernelSpec {
  const { draw } = draft, gradient = chance(draw, 0.5), batch = 1 + draw.int(2), kvHeads = 1 + draw.int(2);
  const heads = kvHeads * pick(draw, [1, 2, 3]), causal = chance(draw, 0.7);
  const tokens = pick(draw, [1, 3, 8, 19, 40]), usesPositions = causal && (chance(draw, 0.5) || tokens === 1);
  const context = causal && !usesPositions ? tokens : pick(draw, [1, 5, 18, 33, 70]);
  const width = pick(draw, [2, 4, 8, 12, 3, 40]), valueWidth = chance(draw, 0.7) ? width : pick(draw, [4, 8, 5]);
  const moderate = () => (draw.int(33) - 16) / 16;
  const full = (extents: readonly number[], axes = extents.map((_, i) => i)) =>
    load(draft, extents, "f32", axes, moderate);
  const quantized = (extents: readonly number[]): Expr =>
    apply(
      "mul",
      apply("sub", cast(load(draft, extents, pick(draw, NARROW), [0, 1, 2, 3]), "f32"), number(3)),
      number(1 / 32),
    );
  const q = full([batch, tokens, heads, width]);
  const cache = (extents: readonly number[]) => !gradient && chance(draw, 0.5) ? quantized(extents) : full(extents);
  const k = cache([batch, context, kvHeads, width]), v = cache([batch, context, kvHeads, valueWidth]);
  const parts: { -readonly [K in keyof AttentionKernel]?: AttentionKernel[K] } = {};
  if (!gradient && chance(draw, 0.4)) {
    parts.bias = full([batch, heads, tokens, context], chance(draw, 0.5) ? [1, 2, 3] : [2, 3]);
  }
  if (usesPositions && draft.buffers.length < 6) {
    parts.positions = load(draft, [batch, tokens], "i32", [0, 1], () => draw.int(context + 3));
  } else if (usesPositions) parts.positions = { kind: "index", access: { offset: 0, strides: [0, 1] }, scalar: "i32" };
  const result = (of: AttentionKernel["results"][number]["of"], shape: readonly number[]) => ({
    of,
    buffer: draft.buffer(of, "write", "f32", shape),
  });
  if (gradient) {
    parts.output = full([batch, tokens, heads, valueWidth]);
    parts.dy = full([batch, tokens, heads, valueWidth]);
    parts.logSumExp = load(draft, [batch, tokens, heads], "f32", [0, 1, 2], () => 3 + moderate());
  }
  const gradients = [
    { of: "q", shape: [batch, tokens, heads, width] },
    { of: "k", shape: [batch, context, kvHeads, width] },
    { of: "v", shape: [batch, context, kvHeads, valueWidth] },
  ] as const;
  const start = draw.int(3), room = MOST_BUFFERS - draft.buffers.length;
  const results = gradient
    ? [0, 1, 2].slice(0, Math.max(1, Math.min(room, 1 + draw.int(3)))).map((i) => gradients[(start + i) % 3]).flatMap((
      g,
    ) => g ? [result(g.of, g.shape)] : [])
    : [
      ...(chance(draw, 0.9) ? [result("output", [batch, tokens, heads, valueWidth])] : []),
      result("logSumExp", [batch, tokens, heads]),
    ];
  // Forward every query sees a key, so that log-sum-exps are finite: positions lie up to three behind the context.
  const narrowest = !gradient && usesPositions ? 4 : 1;
  if (causal && chance(draw, 0.5)) parts.window = narrowest + pick(draw, [0, 1, 4, 9, 30]);
  return {
    kind: "attention",
    name: "attention",
    fuses: "random attention",
    buffers: draft.buffers,
    batch,
    tokens,
    context,
    heads,
    kvHeads,
    width,
    valueWidth,
    scale: 1 / Math.sqrt(width),
    causal,
    q,
    k,
    v,
    ...parts,
    results,
  };
}

function topKKernel(draft: Draft): KernelSpec {
  const { draw } = draft,
    outer = 1 + draw.int(4),
    n = pick(draw, [1, 5, 64, 300, 777]),
    k = 1 + draw.int(Math.min(n, 20));
  const dtype = pick(draw, ["f32", "f16", "i32", "u4"] as const);
  const values = load(draft, [outer, n], dtype, [0, 1]);
  const source = values.scalar === "f32" && chance(draw, 0.5) ? apply("mul", values, number(-0.5)) : values;
  const buffer = draft.buffer("result", "write", "i32", [outer, k]);
  return { kind: "topK", name: "topK", fuses: "random ranking", buffers: draft.buffers, outer, n, k, source, buffer };
}
