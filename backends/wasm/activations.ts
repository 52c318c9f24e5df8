/**
 * The left operand of a product with codes, as signed bytes or words, prepared once for all columns. Integers are what they are. An
 * f32 x of a group (the last contracted axis) with largest magnitude M becomes the integer round(x / step), step = M / 127·2^8: one
 * word, or two balanced digits of base 256. Its error is at most step / 2 = M·2^-16. Codes of 8 bits, rounded by up to half a unit of
 * the grid that spans their group, are 2^-8 of their range off where M is: what activations add to a product's error is about a
 * hundredth of what its weights have already, and sums of such integers are exact. (A third digit makes it f32, and takes half as long
 * again.)
 */
import type { Access, Expr } from "../kernel.ts";
import { f32x4, i16x8, i32, i32x4, i8x16, memory, v128 } from "./assembler.ts";
import { BATCH, COLUMN, type Contraction, outerAxes, ROW } from "./contraction.ts";
import type { Emitter, Preparation } from "./emitter.ts";
import { combineLanes, firstLanes } from "./lanes.ts";
import { denseStrides, nestedLoops, vectorLoop } from "./nest.ts";
import { VECTOR } from "./layout.ts";
import { staysInside } from "./loads.ts";
import { createPlace, type Index, type KernelCode, type Place, type Vector } from "./place.ts";

/** Where prepared activations lie. */
export interface Activations {
  /** Digits of an element: 1 for integers, 2 for f32; the first is worth 1, each following one 256 times more. */
  readonly digits: number;
  /** Whether elements are integers of 16 bits instead, for products of words (`word_sums.ts`). */
  readonly words: boolean;
  /** Vectors of sixteen elements: one per digit, or the words of the even ones and those of the odd ones. */
  readonly vectors: number;
  /** Bytes of a group: the vectors of sixteen elements, then those of the next; zeros behind the last element. */
  readonly groupBytes: number;
  /** Over batch, row and all contracted axes but the last: the number of a group. */
  readonly strides: readonly number[];
  readonly groups: number;
}

/** Digits of an f32. */
const DIGITS = 2;
/** The largest integer whose balanced digits are bytes with room for rounding. */
const MOST = 127 * 2 ** 8;
/** The least magnitude that steps are made for; its step's inverse is finite. */
const LEAST = 2 ** -100;

/** How the activations of a contraction are prepared. */
export function activationsOf({ extents, axes, scalar }: Contraction, words = false): Activations {
  const last = axes.at(-1) ?? 0, length = extents[last] ?? 1, digits = scalar === "f32" ? DIGITS : 1;
  const vectors = words ? 2 : digits, groupBytes = Math.ceil(length / 16) * VECTOR * vectors;
  const over = extents.map((_, v) => v).filter((v) => v < last && v !== COLUMN);
  const groups = over.reduce((product, v) => product * (extents[v] ?? 1), 1);
  return { digits, words, vectors, groupBytes, strides: denseStrides(extents, over), groups };
}

/** Bytes of all prepared activations. Steps of f32 groups and sums of their integers, as f32, follow, and room for a vector from any. */
const activationBytes = ({ digits, groupBytes, groups }: Activations): number =>
  groups * (groupBytes + (digits > 1 ? 8 : 0)) + 16;

/** Address of the step of group 0, less that of the first byte. */
const stepsOffset = ({ groupBytes, groups }: Activations): number => groups * groupBytes;

/** Address of the sum of a group, less that of its step. */
export const sumsOffset = ({ groups }: Activations): number => 4 * groups;

/** Where a kernel's chunks find the bytes of its left operand. */
export interface LeftBytes extends Activations {
  /** Bytes from one row to the next. */
  readonly rowStride: number;
  /** Address of the first byte of an open batch and group, of row 0 or an open row. */
  readonly at: (place: Place) => Index;
  /** Address of the step of an f32 group, likewise. */
  readonly step: (place: Place) => Index;
}

/** The bytes of a contraction, or its words: those of a tensor of bytes where they are, others prepared before the first chunk. */
export function leftBytes(contraction: Contraction, { code, prepared }: Emitter, words = false): LeftBytes {
  const { b } = code, activations = activationsOf(contraction, words), { strides, groupBytes } = activations;
  const inPlace = words ? undefined : bytesInPlace(contraction, code);
  if (inPlace) {
    const { buffer, access } = inPlace;
    return {
      ...activations,
      rowStride: access.strides[ROW] ?? 0,
      at(place) {
        const { base, offset } = place.address(buffer, access);
        return i32.add(base, offset);
      },
      step() {
        throw new Error("Internal error: integers have no step");
      },
    };
  }
  const bytes = prepared(
    activationBytes(activations),
    (preparation, at) => prepareActivations(preparation, contraction, activations, at),
  );
  return {
    ...activations,
    rowStride: groupBytes * (strides[ROW] ?? 0),
    at: (place) => i32.add(bytes, i32.mul(place.affine(strides), groupBytes)),
    step(place) {
      const steps = i32.add(bytes, stepsOffset(activations));
      return b.let("step_at", i32.add(steps, i32.shl(place.affine(strides), 2)));
    },
  };
}

/** Signed bytes that can be read where they are: whole vectors of sixteen along the last contracted axis. */
function bytesInPlace(
  { lhs, extents, axes, scalar }: Contraction,
  code: KernelCode,
): { readonly buffer: number; readonly access: Access } | undefined {
  const last = axes.at(-1) ?? 0;
  if (scalar !== "i32" || lhs.kind !== "load" || (extents[last] ?? 1) % 16 !== 0) return undefined;
  const place = createPlace(code, extents), bound = place.buffer(lhs.buffer), { layout } = bound;
  const isBytes = layout.storage === "byte" && layout.dtype.startsWith("i");
  if (!isBytes || lhs.access.strides[last] !== 1 || !staysInside(place, bound, lhs.access)) return undefined;
  return { buffer: lhs.buffer, access: lhs.access };
}

/** Writes the activations of a contraction to `to`. */
function prepareActivations(
  { code, reserve }: Preparation,
  contraction: Contraction,
  activations: Activations,
  to: Index,
): void {
  const { b } = code,
    { extents, axes, lhs } = contraction,
    { digits, groupBytes, strides, groups, words } = activations;
  const last = axes.at(-1) ?? 0, length = extents[last] ?? 1, place = createPlace(code, extents);
  const values = digits > 1 ? reserve(4 * Math.ceil(length / 16) * 16) : to;
  if (digits > 1 && length % 16 !== 0) b.emit(memory.fill(values, 0, 4 * Math.ceil(length / 16) * 16));
  if (digits === 1) b.emit(memory.fill(to, 0, groups * groupBytes));
  const prepare = () => place.prepare([lhs]);
  prepare();
  const outer = [BATCH, ROW, ...outerAxes(contraction)];
  nestedLoops(place, outer, prepare, () => {
    const group = place.affine(strides), bytes = b.let("bytes", i32.add(to, i32.mul(group, groupBytes)));
    if (digits === 1) return (words ? storeWords : storeBytes)(place, lhs, last, length, bytes);
    const most = b.let("most", f32x4.const(LEAST)), own = extents.map((_, v) => v === last ? 1 : 0);
    vectorLoop(place, last, length, () => {
      const x = b.let("x", firstLanes(place.value(lhs), place.lanes));
      b.emit(v128.store(i32.add(values, place.affine(own, 4)), x, { align: 4 }));
      // Magnitudes are ordered as their bits are, NaN above all: one instruction, where the greater float takes half a dozen.
      b.set(most, i32x4.max_s(most, f32x4.abs(x)));
    });
    const largest = combineLanes(b, i32x4.max_s, most);
    const at = b.let("step_at", i32.add(i32.add(to, stepsOffset(activations)), i32.mul(group, 4)));
    b.emit(v128.store32_lane(at, b.let("step", f32x4.div(largest, f32x4.const(MOST))), 0));
    const inverse = b.let("inverse", f32x4.div(f32x4.const(MOST), largest));
    const total = writeDigits(place, activations, values, bytes, length, inverse);
    b.emit(v128.store32_lane(at, total, 0, sumsOffset(activations)));
  });
}

function storeBytes(place: Place, lhs: Expr, last: number, length: number, bytes: Index): void {
  const { b } = place.code, own = place.extents.map((_, v) => v === last ? 1 : 0);
  vectorLoop(place, last, length, () => {
    const low = i8x16.shuffle(b.let("x", firstLanes(place.value(lhs), place.lanes)), i32x4.const(0), LOW_BYTES);
    b.emit(v128.store32_lane(i32.add(bytes, place.affine(own)), low, 0, { align: 1 }));
  });
}

const LOW_BYTES = Array.from({ length: 16 }, (_, i) => i < 4 ? 4 * i : 16);

/** Of four integers the words of the even ones and of the odd ones, each where they belong among those of sixteen. */
function storeWords(place: Place, lhs: Expr, last: number, length: number, words: Index): void {
  const { b } = place.code, own = place.extents.map((_, v) => v === last ? 1 : 0);
  vectorLoop(place, last, length, () => {
    const x = b.let("x", firstLanes(place.value(lhs), place.lanes)), k = b.let("k", place.affine(own));
    const sixteen = i32.shl(i32.and(k, -16), 1), at = b.let("at", i32.add(words, i32.or(sixteen, i32.and(k, 15))));
    const both = b.let("words", i8x16.shuffle(x, x, EVEN_AND_ODD_WORDS));
    b.emit(v128.store32_lane(at, both, 0, { align: 1 }));
    b.emit(v128.store32_lane(at, both, 1, { offset: VECTOR, align: 1 }));
  });
}

/** The low words of integers 0 and 2, then those of 1 and 3. */
const EVEN_AND_ODD_WORDS = [0, 1, 8, 9, 4, 5, 12, 13, 0, 1, 8, 9, 4, 5, 12, 13];
/** The even words of two vectors; the odd ones lie a word on. */
const EVEN_WORDS = Array.from({ length: 16 }, (_, i) => 4 * (i >> 1) + i % 2);

/** Splits f32 values, sixteen at a time, into digits, or words; returns the sum of their integers, in all lanes. */
function writeDigits(
  { code: { b, math, relaxed } }: Place,
  { words, vectors }: Activations,
  values: Index,
  bytes: Index,
  length: number,
  inverse: Vector,
): Vector {
  const sums = Array.from({ length: DIGITS }, () => b.let("sum", i32x4.const(0)));
  b.for("i", 0, Math.ceil(length / 16) * 16, 16, (i) => {
    const from = b.let("from", i32.add(values, i32.shl(i, 2))), to = b.let("to", i32.add(bytes, i32.mul(i, vectors)));
    const integers = (k: number) => {
      const x = f32x4.nearest(f32x4.mul(v128.load(from, { offset: 16 * k, align: 4 }), inverse));
      return relaxed ? i32x4.relaxed_trunc_f32x4_s(x) : i32x4.trunc_sat_f32x4_s(x);
    };
    // Two digits are 16 bits, of which vectors hold eight.
    const pair = (k: number) => b.let("integers", i16x8.narrow_i32x4_s(integers(k), integers(k + 1)));
    let rest: readonly [Vector, Vector] = [pair(0), pair(2)];
    for (let odd = 0; words && odd < 2; odd++) {
      const own = i8x16.shuffle(rest[0], rest[1], EVEN_WORDS.map((byte) => byte + 2 * odd));
      b.emit(v128.store(to, own, { offset: VECTOR * odd, align: 1 }));
    }
    sums.forEach((sum, d) => {
      const digit = (r: Vector) => d === DIGITS - 1 ? r : b.let("digit", i16x8.shr_s(i16x8.shl(r, 8), 8));
      const [x, y] = [digit(rest[0]), digit(rest[1])], ones = i16x8.const(1);
      if (!words) b.emit(v128.store(to, i8x16.narrow_i16x8_s(x, y), { offset: VECTOR * d, align: 1 }));
      b.set(sum, i32x4.add(sum, i32x4.add(i32x4.dot_i16x8_s(x, ones), i32x4.dot_i16x8_s(y, ones))));
      const above = (r: Vector, own: Vector) => b.let("rest", i16x8.shr_s(i16x8.sub(r, own), 8));
      if (d < DIGITS - 1) rest = [above(rest[0], x), above(rest[1], y)];
    });
  });
  return joinDigits(math.madd, sums.map((sum) => combineLanes(b, i32x4.add, sum)));
}

/** Integers from their digits, lowest first, as f32. */
export function joinDigits(madd: (a: Vector, b: Vector, c: Vector) => Vector, digits: readonly Vector[]): Vector {
  return [...digits].reverse().map((digit): Vector => f32x4.convert_i32x4_s(digit)).reduce((sum, digit) =>
    madd(sum, f32x4.const(256), digit)
  );
}
