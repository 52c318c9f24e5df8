/** What attention does with rows of f32: products of one row with four, weighted sums of many, multiples added to many. */
import { f32x4, type FunctionBuilder, i32, type Local, v128 } from "./assembler.ts";
import type { Vectors } from "./attention_rows.ts";
import type { KernelCode } from "./place.ts";
import { sumLanes } from "./lanes.ts";
import { smaller } from "./nest.ts";
import type { Index, Vector } from "./place.ts";

/** Vectors of sums that are kept in registers. */
const REGISTERS = 8;
/** Vectors of a row that are kept in registers while others are multiplied by it. */
const HELD = 4;

/** A single row: vector i of it, from a register where the row is short. */
export type HeldRow = (i: number) => Vector;

/** Loads a short row into registers. */
export function hold(b: FunctionBuilder, { padded, row }: Vectors): HeldRow {
  const at = row(i32.const(0)), load = (i: number) => v128.load(at, { offset: 16 * i, align: 4 });
  if (padded > 4 * HELD) return load;
  const vectors = Array.from({ length: padded / 4 }, (_, i) => b.let("held", load(i)));
  return (i) => vectors[i] ?? load(i);
}

/** The product of two rows, not yet summed across lanes. */
export function multiplyRows({ b, math }: KernelCode, x: HeldRow, y: Vectors): Vector {
  const right = y.row(i32.const(0)), sum = b.let("sum", f32x4.const(0));
  for (let i = 0; i < y.padded / 4; i++) {
    b.set(sum, math.madd(x(i), v128.load(right, { offset: 16 * i, align: 4 }), sum));
  }
  return sum;
}

/** The products of a row with the four from `first` on, of which `lanes` exist; the others are taken to be row `last`. */
export function multiplyFour(
  { b, math }: KernelCode,
  x: HeldRow,
  y: Vectors,
  { first, lanes, last }: { readonly first: Index; readonly lanes: number; readonly last: number },
): Vector {
  const start = y.row(first);
  const rows = [0, 1, 2, 3].map((r) => {
    if (lanes === 4) return { base: start, offset: r * y.stride };
    return { base: y.row(b.let("key", smaller(i32.add(first, r), i32.const(last)))), offset: 0 };
  });
  const sums = rows.map((): Local<"v128"> => b.let("sum", f32x4.const(0)));
  for (let i = 0; i < y.padded / 4; i++) {
    const left = b.let("left", x(i));
    rows.forEach(({ base, offset }, r) => {
      const sum = sums[r];
      if (sum) b.set(sum, math.madd(left, v128.load(base, { offset: offset + 16 * i, align: 4 }), sum));
    });
  }
  return b.let("product", sumLanes(b, sums, f32x4.add));
}

/** Weights, f32 next to each other, and the rows they belong to. */
export interface Weighted {
  readonly weights: Index;
  readonly rows: Vectors;
  /** The first row, and the one behind the last. */
  readonly from: Index;
  readonly count: Index;
}

/** Stores scale · Σ weight · row, `length` f32, at `to`. */
export function weightedSum(
  { b, math }: KernelCode,
  { weights, rows, from, count }: Weighted,
  { scale, length, to }: { readonly scale: Vector; readonly length: number; readonly to: Index },
): void {
  const target = b.let("target", to);
  for (let start = 0; start < length; start += 4 * REGISTERS) {
    const vectors = Math.min(REGISTERS, Math.ceil((length - start) / 4));
    // Short rows: several at once, so that additions need not wait for each other.
    const several = vectors <= REGISTERS / 4 ? 4 : vectors <= REGISTERS / 2 ? 2 : 1;
    const sums = Array.from({ length: several * vectors }, () => b.let("sum", f32x4.const(0)));
    const add = (key: Index, number: number) => {
      const first = rows.row(key), weightAt = b.let("weight_at", i32.add(weights, i32.shl(key, 2)));
      for (let r = 0; r < number; r++) {
        const weight = b.let("weight", v128.load32_splat(weightAt, 4 * r));
        for (let i = 0; i < vectors; i++) {
          const sum = sums[r * vectors + i],
            row = v128.load(first, { offset: r * rows.stride + 4 * (start + 4 * i), align: 4 });
          if (sum) b.set(sum, math.madd(weight, row, sum));
        }
      }
    };
    const whole = several === 1 ? from : b.let("whole", i32.add(from, i32.and(i32.sub(count, from), -several)));
    if (several > 1) b.for("key", from, whole, several, (key) => add(key, several));
    b.for("key", whole, count, 1, (key) => add(key, 1));
    for (let i = 0; i < vectors; i++) {
      const parts = Array.from({ length: several }, (_, r) => sums[r * vectors + i] as Vector);
      const total = parts.reduce((x, y) => f32x4.add(x, y));
      storeFirst(b, target, b.let("scaled", f32x4.mul(total, scale)), start + 4 * i, length);
    }
  }
}

/** Adds weight · `row` to every one of the rows. */
export function addMultiples({ b, math }: KernelCode, { weights, rows, from, count }: Weighted, row: HeldRow): void {
  b.for("key", from, count, 1, (key) => {
    const weight = b.let("weight", v128.load32_splat(i32.add(weights, i32.shl(key, 2)))), target = rows.row(key);
    for (let i = 0; i < rows.padded / 4; i++) {
      b.emit(v128.store(target, math.madd(weight, row(i), v128.load(target, 16 * i)), 16 * i));
    }
  });
}

/** Copies the first `length` f32 of a padded row. */
export function copyRow(b: FunctionBuilder, from: Index, to: Index, length: number): void {
  for (let i = 0; i < length; i += 4) storeFirst(b, to, b.let("x", v128.load(from, 4 * i)), i, length);
}

/** Stores the lanes of elements `at` … that lie before `length`. */
export function storeFirst(b: FunctionBuilder, to: Index, value: Vector, at: number, length: number): void {
  if (at + 4 <= length) return b.emit(v128.store(to, value, { offset: 4 * at, align: 4 }));
  for (let lane = 0; at + lane < length; lane++) b.emit(v128.store32_lane(to, value, lane, 4 * (at + lane)));
}
