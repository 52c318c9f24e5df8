/**
 * @file Quantizers, the adapter and the master as builder functions that return ordinary nodes. Each has two forms of equal
 * value: the train form keeps codes in f32 and passes gradients straight through the rounding; the deploy form (`store` or
 * `codes` given) casts codes to their narrow type and marks what is stored with `hold`. Section numbers are those of the
 * method's description, quept-method.md.
 */
import type { Builder } from "../builder.ts";
import type { Node } from "../node.ts";
import type { BindingTime } from "../ops/state.ts";
import type { MasterKind } from "../sites.ts";
import type { NarrowType } from "../types.ts";

/** How a row of columns is divided: `groups` of `size`, the last one filled up with `padding` zeros. */
export interface Grouping {
  readonly groups: number;
  readonly size: number;
  readonly padding: number;
}

/** The deploy form: codes of type `dtype`, and holds `<name>.codes`, `<name>.scale` and `<name>.zero` of that time. */
export interface Stored {
  readonly name: string;
  readonly time: BindingTime;
  readonly dtype: NarrowType;
}

/** The top code of a grid: a number, or an input f32[1] that several widths share. */
export type Top = number | Node;

/** Divides rows in groups of `groupSize` columns; -1, or a group longer than the row: one group per row, unpadded (2.1). */
export function groupingOf(columns: number, groupSize: number): Grouping {
  if (groupSize === -1 || groupSize >= columns) return { groups: 1, size: columns, padding: 0 };
  if (!Number.isSafeInteger(groupSize) || groupSize < 1) {
    throw new RangeError(`Expected a group size of 1 or more, or -1 for whole rows, but found ${groupSize}`);
  }
  const groups = Math.ceil(columns / groupSize);
  return { groups, size: groupSize, padding: groups * groupSize - columns };
}

/** f32 [p,q] -> [p,G,g], zeros appended to each row (2.1). */
export function toGroups(b: Builder, w: Node, { groups, size, padding }: Grouping): Node {
  const [rows] = matrixShape(w);
  return b.reshape(b.pad(w, [0, 0], [0, padding]), [rows, groups, size]);
}

/** [p,G,g] -> [p,q]: inverse of `toGroups`. */
export function fromGroups(b: Builder, x: Node, columns: number): Node {
  const [rows = 1, groups = 1, size = 1] = x.type.shape.map(Number);
  return b.slice(b.reshape(x, [rows, groups * size]), [0, 0], [rows, columns]);
}

/** Least and largest values of groups, f32 [p,G,1]. */
export interface GroupRange {
  readonly low: Node;
  readonly high: Node;
}

/** The range of every group of a weight [p,q], zero included, so that it is on the grid (2.1). */
export function rangeOfGroups(b: Builder, w: Node, grouping: Grouping): GroupRange {
  const v = toGroups(b, w, grouping);
  return { low: b.minimum(b.min(v, [2]), 0), high: b.maximum(b.max(v, [2]), 0) };
}

/** Learned range and grid of a weight quantizer. */
export interface AffineOptions {
  /** Columns per group, -1 for whole rows. */
  readonly groupSize: number;
  /** Clip logits α and β of the range's upper and lower end, f32 [p,G,1]. */
  readonly high: Node;
  readonly low: Node;
  /** Q = 2^b - 1. */
  readonly top: Top;
  /** What `rangeOfGroups` gives, where it is known already. */
  readonly range?: GroupRange;
  /** B·A [p,q] of an adapter that acts on the grid, not on the weight; in the space of rounding policies `POLICY_SLOPE` times that. */
  readonly adapter?: { readonly space: "scale" | "rounding"; readonly product: Node };
  readonly store?: Stored;
}

/** Slope at 0 of the stretched sigmoid that chooses between rounding down and up (quept-method 4.4): (ζ - γ)/4 with ζ - γ = 1.2. */
export const POLICY_SLOPE = 0.3;

/**
 * The asymmetric weight quantizer with learned clipping (2.1 to 2.4), f32 [p,q] -> [p,q]. The range is forced to include
 * zero before it is clipped, so that zero is on the grid and the zero point z is an integer in [0, Q]:
 *
 *     lo = σ(β)·min(V, 0), hi = σ(α)·max(V, 0), s = clamp((hi - lo)/Q), z = -⌊lo/s⌉, c = clamp(⌊V/s⌉ + z, 0, Q), V̂ = (c - z)·s
 *
 * An adapter in scale space makes that ⌊V/s + BA⌉, in the space of rounding policies ⌊V/s⌋ + ⌊ΔW⌉ with
 * ΔW = clip(frac(V/s) + 0.3·BA, 0, 1). The published ΔW is clip(σ(BA)(ζ - γ) + γ, 0, 1): ½ for every weight where BA = 0. With
 * frac(V/s) instead, calibration starts at rounding to nearest, and ΔW needs no loss that pulls it to 0 or 1; and the tangent of σ
 * serves as well as σ itself, which would cost a switch a third of its time.
 */
export function affineQuantizer(b: Builder, w: Node, options: AffineOptions): Node {
  const { groupSize, high, low, top, adapter, store } = options;
  const [, columns] = matrixShape(w), grouping = groupingOf(columns, groupSize);
  const v = toGroups(b, w, grouping), range = options.range ?? rangeOfGroups(b, w, grouping);
  const lo = b.mul(b.sigmoid(low), range.low), hi = b.mul(b.sigmoid(high), range.high);
  const step = b.div(b.sub(hi, lo), top);
  const scale = straight(b, b.minimum(b.maximum(step, 1e-5), 1e4), step, store);
  const zero = b.mul(b.round(b.div(lo, scale)), -1);
  // One division per group instead of one per weight, which would be a tenth of a switch.
  const u = b.mul(v, b.div(b.constant(1, scale.type), scale));
  const product = adapter && toGroups(b, adapter.product, grouping);
  const rounded = product && adapter.space === "rounding"
    ? chosenRounding(b, u, product, store)
    : nearest(b, product ? b.add(u, product) : u, store);
  const codes = clamp(b, b.add(rounded, zero), 0, top);
  return fromGroups(b, dequantize(b, stored(b, { codes, scale, zero }, store)), columns);
}

/** Grid of a per-token quantizer. */
export interface PerTokenOptions {
  /** P = 2^(b-1) - 1. */
  readonly top: Top;
  /** Part of the largest magnitude that the grid spans, 1 unless given. */
  readonly clip?: number;
  /** The deploy form: signed codes of that type. */
  readonly codes?: NarrowType;
}

/** Tokens smaller than this are quantized with the scale of one that large, so that a zero token stays zero (trap N1). */
const SMALLEST_TOKEN = 1e-8;

/**
 * The symmetric dynamic quantizer of activations (3.1, with one scale for both directions), one scale per vector of the
 * last axis: s = max(clip·max|x|, ε)/P, x̂ = ⌊x/s⌉·s.
 */
export function perTokenQuantizer(b: Builder, x: Node, { top, clip = 1, codes: dtype }: PerTokenOptions): Node {
  const largest = b.max(b.abs(x), [x.type.shape.length - 1]);
  const scale = b.div(b.maximum(clip === 1 ? largest : b.mul(largest, clip), SMALLEST_TOKEN), top);
  const u = b.div(x, scale);
  const rounded = dtype ? b.round(u) : b.straightThrough(b.round(u), u);
  // Without clipping |x|/s never exceeds P; with it the clamp is what makes the grid one of b bits (trap N2).
  const codes = clip === 1 ? rounded : clamp(b, rounded, typeof top === "number" ? -top : b.mul(top, -1), top);
  return b.mul(dtype ? b.cast(b.cast(codes, dtype), "f32") : codes, scale);
}

/** Grid of a cache quantizer. */
export interface CacheOptions {
  /** Q = 2^b - 1. */
  readonly top: Top;
  /** Part of the range that the grid spans: 0.95 in the published code. */
  readonly clip: number;
  readonly store?: Stored;
}

/**
 * The asymmetric quantizer of cached keys and values (3.3), one group per vector of the last axis (a head). The range
 * includes zero and has a least extent, so that constant and zero groups are exact (traps N1, N5); all gradients pass
 * straight through.
 */
export function cacheQuantizer(b: Builder, x: Node, { top, clip, store }: CacheOptions): Node {
  const axis = x.type.shape.length - 1;
  const lo = b.minimum(b.mul(b.min(x, [axis]), clip), 0);
  const hi = b.maximum(b.mul(b.max(x, [axis]), clip), 0);
  const scale = b.div(b.maximum(b.sub(hi, lo), SMALLEST_TOKEN), top);
  const lowest = b.mul(b.div(lo, scale), -1);
  const zero = straight(b, b.round(lowest), lowest, store);
  const u = b.div(x, scale);
  const codes = straight(b, clamp(b, b.add(b.round(u), zero), 0, top), b.add(u, zero), store);
  return dequantize(b, stored(b, { codes, scale, zero }, store));
}

/** Factors of an adapter and how much of them to use. */
export interface LowRankOptions {
  /** B, f32 [p,R]. */
  readonly left: Node;
  /** A, f32 [R,q]. */
  readonly right: Node;
  /** r(b): the first r columns of B and rows of A. */
  readonly rank: number;
  /** The first columns, which get no gradient: those of higher widths where they are protected; none unless given. */
  readonly kept?: number;
}

/** B[:, :r]·A[:r, :] f32 [p,q], the adapter cascade: lower widths extend the prefix (4.1). */
export function lowRankProduct(b: Builder, { left, right, rank, kept = 0 }: LowRankOptions): Node {
  const [rows] = matrixShape(left), [, columns] = matrixShape(right), axes = { lhsContract: [1], rhsContract: [0] };
  const from = (start: number) =>
    b.dot(b.slice(left, [0, start], [rows, rank - start]), b.slice(right, [start, 0], [rank - start, columns]), axes);
  const whole = from(0);
  if (kept === 0) return whole;
  return b.straightThrough(whole, kept < rank ? from(kept) : b.constant(0, whole.type));
}

/**
 * How adapters are stored: B in signed bytes, A in unsigned codes of 7 bits around `zero`, one instruction of which multiplies four of
 * each. A switch is little else than their product, and what it decides, rounding up or down, does not need more.
 */
export const FACTOR_CODES = {
  left: { dtype: "i8", top: 127, zero: 0 },
  right: { dtype: "u7", top: 63, zero: 64 },
} as const;

/** Stands for the scale of zeros. */
export const LEAST_FACTOR_SCALE = 2 ** -100;

/**
 * A factor rounded as it will be stored, B [p,r] or A [r,q], with a scale per row of B or column of A and segment of ranks. Gradients
 * pass straight through. Training must see it: averaged values lie so near to where rounding changes that without it one weight in
 * seventy ends up on the other side, and the divergence of stories260K is a tenth larger.
 */
export function roundedFactor(b: Builder, x: Node, side: keyof typeof FACTOR_CODES, ends: readonly number[]): Node {
  const { top } = FACTOR_CODES[side], ranks = side === "left" ? 1 : 0, sizes = x.type.shape.map(Number);
  const parts = ends.map((end, s) => {
    const start = ends[s - 1] ?? 0;
    const part = b.slice(
      x,
      sizes.map((_, axis) => axis === ranks ? start : 0),
      sizes.map((size, axis) => axis === ranks ? end - start : size),
    );
    const scale = b.maximum(b.div(b.max(b.abs(part), [ranks]), top), LEAST_FACTOR_SCALE);
    return b.straightThrough(b.mul(b.round(b.div(part, scale)), scale), part);
  });
  const [first, ...others] = parts;
  return first && others.length === 0 ? first : b.concat(parts, ranks);
}

/** A stored factor: a row of R codes for every row of B, or for every column of A, and a scale of it for each segment of ranks. */
export interface StoredFactor {
  /** i8 or u7 [n,R]. */
  readonly codes: Node;
  /** f32 [n,S]. */
  readonly scale: Node;
}

/** Stored factors of an adapter. */
export interface StoredLowRank {
  /** B, of p rows. */
  readonly left: StoredFactor;
  /** Aᵀ, of q rows. */
  readonly right: StoredFactor;
  /** What the product is multiplied by; it costs nothing per weight. */
  readonly factor?: number;
  /** Ends of the segments that are used, the last one is r(b). */
  readonly ends: readonly number[];
}

/**
 * B[:, :r]·A[:r, :] f32 [p,q] of stored factors: Σ over segments of ranks of (s_B·c_B)·(s_A·(c_A - 64))ᵀ, each in the form that
 * `contractIntegers` turns into a product of the codes.
 */
export function storedLowRankProduct(b: Builder, { left, right, ends, factor = 1 }: StoredLowRank): Node {
  const terms = ends.map((end, s) => {
    const start = ends[s - 1] ?? 0, rank = end - start;
    const part = ({ codes, scale }: StoredFactor, groups: readonly number[]) => {
      const rows = Number(codes.type.shape[0]), own = b.slice(codes, [0, start], [rows, rank]);
      return {
        codes: b.cast(b.reshape(own, [rows, ...groups, rank]), "f32"),
        scale: b.reshape(b.slice(scale, [0, s], [rows, 1]), [rows, ...groups, 1]),
      };
    };
    const x = part(left, []), w = part(right, [1]), zero = b.constant(FACTOR_CODES.right.zero, w.scale.type);
    const lhs = b.mul(x.codes, factor === 1 ? x.scale : b.mul(x.scale, factor)), [rows = 1] = lhs.type.shape;
    const axes = { lhsContract: [1, 2], rhsContract: [1, 2] };
    return b.dot(b.reshape(lhs, [rows, 1, rank]), b.mul(b.sub(w.codes, zero), w.scale), axes);
  });
  return terms.reduce((sum, term) => b.add(sum, term));
}

/** How a master of integers is stored. */
export interface MasterOptions {
  readonly name: string;
  /** Columns per scale; a multiple of four where there are fine codes. */
  readonly groupSize: number;
  /** Two more bits per weight, stored apart. */
  readonly fine: boolean;
}

/** Values of a fine code: quarters of the master's step. */
const QUARTERS = 4;

/** Stands for the scale of a row of zeros, so that it divides by no zero. */
const SMALLEST_SCALE = 2 ** -24;

/**
 * The stored copy of a weight in integers (design.md 8), f32 [p,q] -> [p,q]: holds `<name>.master.codes` i8 [p,G,g] and
 * `<name>.master.scales` f16 [p,G,1]. The scale max|w|/127 is rounded to f16 before the codes are computed; the smallest
 * positive f16 stands for zero, so that a zero group divides by no zero.
 *
 * With `fine`, weights are rounded to quarters of that scale, ⌊4w/s⌉ = 4c + f: c are the codes, and f in `<name>.master.fine`
 * u2 [p,G,g]. Grids of 8 bits are then as good as made of the weights themselves, while two roundings to steps of like size
 * have nearly twice the error of one.
 */
export function integerMaster(b: Builder, w: Node, { name, groupSize, fine }: MasterOptions): Node {
  const [, columns] = matrixShape(w);
  // Unlike grids of few bits the master keeps its group size in short rows: one storage shape for every width.
  const groups = Math.ceil(columns / groupSize);
  const v = toGroups(b, w, { groups, size: groupSize, padding: groups * groupSize - columns });
  const largest = b.div(b.max(b.abs(v), [2]), 127);
  const scales = b.hold(b.cast(b.maximum(largest, SMALLEST_SCALE), "f16"), "checkpoint", `${name}.master.scales`);
  const scale = b.cast(scales, "f32");
  const kept = (codes: Node, type: NarrowType, part: string, as: "f32" | "i32") =>
    b.cast(b.hold(b.cast(codes, type), "checkpoint", `${name}.master.${part}`), as);
  if (!fine) {
    const codes = clamp(b, b.round(b.div(v, scale)), -127, 127);
    return fromGroups(b, b.mul(kept(codes, "i8", "codes", "f32"), scale), columns);
  }
  const { codes, rest } = quartered(b, b.div(v, scale));
  const steps = b.add(b.mul(kept(codes, "i8", "codes", "i32"), QUARTERS), kept(rest, "u2", "fine", "i32"));
  return fromGroups(b, b.mul(b.cast(steps, "f32"), b.div(scale, QUARTERS)), columns);
}

/** A stored matrix [p,q] whose rows are (Σ unit·(part - zero))·scale, or that without a scale. */
export interface Rows {
  readonly parts: readonly { readonly stored: Node; readonly zero: number; readonly unit: number }[];
  /** f32 [p,1]. */
  readonly scale: Node | undefined;
}

/** Fine codes in a byte. */
const PER_BYTE = 4;

/** What stands for zero among codes of a byte: products are quickest where codes have no sign. */
const BYTE_ZERO = 128;

/**
 * The stored copy of a matrix that is read whole and of which rows are gathered, f32 [p,q]: as in `integerMaster`, with a scale per row,
 * `<name>.codes` u8 [p,q], `<name>.fine` u2 [p,q] and `<name>.scale` f32 [p,1]; or `<name>` f16. Fine codes lie four to a byte: where
 * columns do not come in fours there are none.
 */
export function storedRows(b: Builder, w: Node, name: string, kind: MasterKind): Rows {
  const keep = (x: Node, part: string) => b.hold(x, "checkpoint", `${name}${part}`);
  if (kind === "fp16") return { parts: [{ stored: keep(b.cast(w, "f16"), ""), zero: 0, unit: 1 }], scale: undefined };
  const scale = keep(b.maximum(b.div(b.max(b.abs(w), [1]), 127), SMALLEST_SCALE), ".scale"), steps = b.div(w, scale);
  const bytes = (codes: Node) => keep(b.cast(b.add(codes, BYTE_ZERO), "u8"), ".codes");
  const [, columns = 1] = matrixShape(w);
  if (kind === "int8" || columns % PER_BYTE !== 0) {
    return { parts: [{ stored: bytes(b.round(steps)), zero: BYTE_ZERO, unit: 1 }], scale };
  }
  const { codes, rest } = quartered(b, steps), fine = keep(b.cast(rest, "u2"), ".fine");
  const parts = [{ stored: bytes(codes), zero: BYTE_ZERO, unit: 1 }, { stored: fine, zero: 0, unit: 1 / QUARTERS }];
  return { parts, scale };
}

/** ⌊4x⌉ = 4c + f: c in [-127, 127] and f in [0, 3]. */
function quartered(b: Builder, x: Node): { codes: Node; rest: Node } {
  const all = clamp(b, b.round(b.mul(x, QUARTERS)), -127 * QUARTERS, 127 * QUARTERS);
  const codes = b.floor(b.div(all, QUARTERS));
  return { codes, rest: b.sub(all, b.mul(codes, QUARTERS)) };
}

/** The stored copy of a weight in f16, f32 [p,q] -> [p,q]: the hold `<name>.master`. */
export function halfMaster(b: Builder, w: Node, name: string): Node {
  return b.cast(b.hold(b.cast(w, "f16"), "checkpoint", `${name}.master`), "f32");
}

interface Grid {
  readonly codes: Node;
  readonly scale: Node;
  readonly zero: Node;
}

/** Marks the parts of a grid as stored, codes in their narrow type; the train form stays as it is. */
function stored(b: Builder, { codes, scale, zero }: Grid, store: Stored | undefined): Grid {
  if (!store) return { codes, scale, zero };
  const keep = (x: Node, part: string) => b.hold(x, store.time, `${store.name}.${part}`);
  return {
    codes: b.cast(keep(b.cast(codes, store.dtype), "codes"), "f32"),
    scale: keep(scale, "scale"),
    zero: keep(zero, "zero"),
  };
}

const dequantize = (b: Builder, { codes, scale, zero }: Grid): Node => b.mul(b.sub(codes, zero), scale);

const nearest = (b: Builder, u: Node, store: Stored | undefined): Node => straight(b, b.round(u), u, store);

/**
 * ⌊u⌋ + ⌊ΔW⌉: the product decides whether to round up. Gradients of u and of the product are those of ΔW, which has no need to be
 * made where no gradients are: it rounds to 1 above a half.
 */
function chosenRounding(b: Builder, u: Node, product: Node, store: Stored | undefined): Node {
  const down = b.floor(u), whole = b.add(b.sub(u, down), product);
  if (store) return b.add(down, b.cast(b.compare(whole, 0.5, "gt"), "f32"));
  const up = clamp(b, whole, 0, 1);
  return b.straightThrough(b.add(down, b.round(up)), up);
}

/** Straight-through in the train form; the deploy form needs no gradient and stays smaller. */
const straight = (b: Builder, value: Node, through: Node, store: Stored | undefined): Node =>
  store ? value : b.straightThrough(value, through);

/** An ordinary clamp: values on the ends pass the gradient (2.3). */
const clamp = (b: Builder, x: Node, low: Top, high: Top): Node => b.minimum(b.maximum(x, low), high);

function matrixShape(w: Node): readonly [rows: number, columns: number] {
  const [rows, columns] = w.type.shape;
  if (w.type.shape.length === 2 && typeof rows === "number" && typeof columns === "number") return [rows, columns];
  throw new TypeError(`Expected a matrix as weight but found ${w.type.dtype}[${w.type.shape.join(",")}]`);
}
