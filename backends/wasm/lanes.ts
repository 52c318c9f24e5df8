/** Work on the lanes of vectors of f32 or i32: sums across them, masks, transposes. */
import { type FunctionBuilder, i32x4, i8x16, v128 } from "./assembler.ts";
import type { Vector } from "./place.ts";

/** An operation on two vectors. */
export type Combine = (a: Vector, b: Vector) => Vector;

const SWAP_HALVES = [8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7];
const SWAP_PAIRS = [4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11];
const INTERLEAVE_LOW = [0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23];
const INTERLEAVE_HIGH = [8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31];
const JOIN_LOW = [0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23];
const JOIN_HIGH = [8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31];

/** Lanes 1, 0, 3, 2. */
export const swapPairs = (x: Vector): Vector => i8x16.shuffle(x, x, SWAP_PAIRS);
/** Lanes 2, 3, 0, 1. */
export const swapHalves = (x: Vector): Vector => i8x16.shuffle(x, x, SWAP_HALVES);

/** Lanes 0 and 1 of both, alternately. */
export const interleaveLow = (x: Vector, y: Vector): Vector => i8x16.shuffle(x, y, INTERLEAVE_LOW);
/** Lanes 2 and 3 of both, alternately. */
export const interleaveHigh = (x: Vector, y: Vector): Vector => i8x16.shuffle(x, y, INTERLEAVE_HIGH);

/** All ones in the first `count` lanes. */
export const laneMask = (count: number): Vector => i32x4.const(...[0, 1, 2, 3].map((lane) => lane < count ? -1 : 0));

/** The value with zeros behind its first `count` lanes. */
export const firstLanes = (x: Vector, count: number): Vector => count === 4 ? x : v128.and(x, laneMask(count));

/** Combines the four lanes, always in the same order, into all lanes. */
export function combineLanes(b: FunctionBuilder, combine: Combine, x: Vector): Vector {
  const value = b.let("lanes", x);
  const half = b.let("half", combine(value, swapHalves(value)));
  return b.let("total", combine(half, swapPairs(half)));
}

/** The sum of the lanes of each of four vectors. */
export function sumLanes(b: FunctionBuilder, vectors: readonly Vector[], plus: Combine): Vector {
  const [x, y, z, w] = four(vectors);
  const xy = b.let("half", plus(interleaveLow(x, y), interleaveHigh(x, y)));
  const zw = b.let("half", plus(interleaveLow(z, w), interleaveHigh(z, w)));
  return plus(i8x16.shuffle(xy, zw, JOIN_LOW), i8x16.shuffle(xy, zw, JOIN_HIGH));
}

/** The four vectors as columns. */
export function transpose(b: FunctionBuilder, vectors: readonly Vector[]): [Vector, Vector, Vector, Vector] {
  const [x, y, z, w] = four(vectors);
  const xy = b.let("low", interleaveLow(x, y)), zw = b.let("low", interleaveLow(z, w));
  const XY = b.let("high", interleaveHigh(x, y)), ZW = b.let("high", interleaveHigh(z, w));
  const join = (p: Vector, q: Vector) => [i8x16.shuffle(p, q, JOIN_LOW), i8x16.shuffle(p, q, JOIN_HIGH)] as const;
  return [...join(xy, zw), ...join(XY, ZW)];
}

/** Exactly four vectors. */
export function four([x, y, z, w]: readonly Vector[]): [Vector, Vector, Vector, Vector] {
  if (!x || !y || !z || !w) throw new Error("Internal error: expected four vectors");
  return [x, y, z, w];
}
