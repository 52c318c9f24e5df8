/**
 * What attention does for several queries at a time: a key that is loaded once serves them all. Scores are sums over transposed
 * keys, so that lanes are keys and none are summed up. In a block of the bundled model, 189 tokens, attention and its two kernels of
 * gradients took 4.4 ms query by query and take 3.0 ms so.
 */
import { addMultiples, type HeldRow, storeFirst, type Weighted } from "./attention_products.ts";
import type { Vectors } from "./attention_rows.ts";
import { f32x4, type FunctionBuilder, i32, type Local, v128 } from "./assembler.ts";
import { transpose } from "./lanes.ts";
import { smaller } from "./nest.ts";
import type { Index, KernelCode, Vector } from "./place.ts";

/** Queries of a block. With two vectors of keys their sums are eight registers, as many as hide the latency of a multiply-add. */
export const BLOCK = 4;
/** Keys of a step. */
export const STEP = 8;
/** Rows up to this long are multiplied without a loop. */
const UNROLLED = 32;

/** Numbers 0 … BLOCK - 1. */
export const QUERIES_OF_BLOCK = Array.from({ length: BLOCK }, (_, r) => r);

/** Rows whose elements lie side by side by number of row: element e of row i at e · stride + 4i. */
export interface Transposed {
  readonly address: Index;
  readonly stride: number;
  /** Elements of a row. */
  readonly length: number;
}

/** Bytes from one element to the next of so many transposed rows: whole steps, and off powers of two, whose lines share cache sets. */
const strideOf = (rows: number): number => 4 * (Math.ceil(rows / STEP) * STEP + 16);

/** Bytes of so many transposed rows. */
export const transposedBytes = (rows: number, length: number): number => Math.ceil(length / 4) * 4 * strideOf(rows);

/** Transposes rows `from` … `count - 1` of at most `rows`; what lies before and behind them is anything. */
export function transposeRows(
  { b }: KernelCode,
  source: Vectors,
  { to, rows, length, from, count }: {
    readonly to: Index;
    readonly rows: number;
    readonly length: number;
    readonly from: Index;
    readonly count: Index;
  },
): Transposed {
  const stride = strideOf(rows), last = b.let("last", i32.sub(count, 1));
  b.for("key", i32.and(from, -4), count, 4, (key) => {
    const addresses = [0, 1, 2, 3].map((r) => source.row(b.let("number", smaller(i32.add(key, r), last))));
    const target = b.let("target", i32.add(to, i32.shl(key, 2)));
    for (let i = 0; i < source.padded / 4; i++) {
      const loaded = addresses.map((at) => b.let("row", v128.load(at, { offset: 16 * i, align: 4 })));
      transpose(b, loaded).forEach((line, e) => b.emit(v128.store(target, line, (4 * i + e) * stride)));
    }
  });
  return { address: to, stride, length };
}

/** The products of the queries at `rows` with the keys `key` … `key + 7`, by query, as two vectors each. */
export function multiplyBlock(
  { b, math }: KernelCode,
  rows: readonly Index[],
  { address, stride, length }: Transposed,
  key: Index,
): readonly (readonly [Local<"v128">, Local<"v128">])[] {
  const sums = rows.map(() => [b.let("sum", f32x4.const(0)), b.let("sum", f32x4.const(0))] as const);
  const first = b.let("keys", i32.add(address, i32.shl(key, 2)));
  const add = (keys: Index, queries: readonly Index[], elements: number) => {
    for (let e = 0; e < elements; e++) {
      const lines = [0, 16].map((offset) => b.let("line", v128.load(keys, e * stride + offset)));
      queries.forEach((query, r) => {
        const x = b.let("x", v128.load32_splat(query, 4 * e));
        sums[r]?.forEach((sum, half) => b.set(sum, math.madd(x, lines[half] as Vector, sum)));
      });
    }
  };
  const unroll = length <= UNROLLED ? length : [8, 4, 2, 1].find((n) => length % n === 0) ?? 1;
  if (unroll === length) add(first, rows, length);
  else {
    b.for("element", 0, length, unroll, (element) => {
      const at = b.let("keys", i32.add(first, i32.mul(element, stride))), offset = b.let("offset", i32.shl(element, 2));
      add(at, rows.map((row) => b.let("query", i32.add(row, offset))), unroll);
    });
  }
  return sums;
}

/** Weights of a block's queries: query r's list lies `stride` bytes behind that of query r - 1. */
export interface WeightedBlock {
  readonly weights: Index;
  readonly stride: number;
  readonly rows: Vectors;
  /** What each query sees. */
  readonly seen: readonly Range[];
  /** What all of them see; empty, but within bounds, where that is nothing. */
  readonly common: Range;
}

/** Keys from `from` to before `count`. */
export interface Range {
  readonly from: Index;
  readonly count: Index;
}

/** What all of the ranges have in common, and what holds them all. Windowless ranges start at 0. */
export function joinRanges(b: FunctionBuilder, ranges: readonly Range[], windowed: boolean) {
  const all = (of: (range: Range) => Index, choose: (x: Index, y: Index) => Index) =>
    ranges.map(of).reduce((x, y) => b.let("bound", choose(x, y)));
  const count = ({ count }: Range) => count, from = ({ from }: Range) => from;
  const least = all(count, smaller), most = all(count, larger);
  if (!windowed) return { common: { from: i32.const(0), count: least }, range: { from: i32.const(0), count: most } };
  const start = all(from, larger);
  return {
    common: { from: start, count: b.let("bound", larger(least, start)) },
    range: { from: all(from, smaller), count: most },
  };
}

/** The larger of two i32. */
export const larger = (a: Index, b: Index): Index => i32.sub(i32.add(a, b), smaller(a, b));

/** The list of one query, over what only it sees before, or behind, what all see. */
function alone({ weights, stride, rows, seen, common }: WeightedBlock, r: number, part: "before" | "behind"): Weighted {
  const own = seen[r];
  if (!own) throw new Error(`Internal error: a block has no query ${r}`);
  const list = i32.add(weights, r * stride);
  return part === "before"
    ? {
      weights: list,
      rows,
      from: own.from,
      count: own.from === common.from ? common.from : smaller(common.from, own.count),
    }
    : { weights: list, rows, from: common.count, count: own.count };
}

/** Stores scale · Σ weight · row of each query, `length` f32, at its address. */
export function weightedSums(
  { b, math }: KernelCode,
  block: WeightedBlock,
  { scales, length, to }: {
    readonly scales: readonly Vector[];
    readonly length: number;
    readonly to: readonly Index[];
  },
): void {
  const { rows, weights, stride, common } = block;
  for (let start = 0; start < length; start += 8) {
    const vectors = Math.min(2, Math.ceil((length - start) / 4)), each = Array.from({ length: vectors }, (_, i) => i);
    const sums = QUERIES_OF_BLOCK.map(() => each.map(() => b.let("sum", f32x4.const(0))));
    const add = (key: Index, queries: readonly number[]) => {
      const at = rows.row(key), weightAt = b.let("weight_at", i32.add(weights, i32.shl(key, 2)));
      const row = each.map((i) => b.let("row", v128.load(at, { offset: 4 * (start + 4 * i), align: 4 })));
      for (const r of queries) {
        const weight = b.let("weight", v128.load32_splat(weightAt, r * stride));
        sums[r]?.forEach((sum, i) => b.set(sum, math.madd(weight, row[i] as Vector, sum)));
      }
    };
    b.for("key", common.from, common.count, 1, (key) => add(key, QUERIES_OF_BLOCK));
    for (const r of QUERIES_OF_BLOCK) {
      for (const part of ["before", "behind"] as const) {
        const { from, count } = alone(block, r, part);
        b.for("key", from, count, 1, (key) => add(key, [r]));
      }
      sums[r]?.forEach((sum, i) => {
        const scaled = b.let("scaled", f32x4.mul(sum, scales[r] as Vector));
        storeFirst(b, to[r] as Index, scaled, start + 4 * i, length);
      });
    }
  }
}

/** Adds Σ weight · `added` over the queries to every one of the rows. */
export function addMultiplesOfBlock(
  code: KernelCode,
  block: WeightedBlock,
  added: readonly HeldRow[],
): void {
  const { b, math } = code, { rows, weights, stride, common } = block;
  for (let start = 0; start < rows.padded / 4; start += 2) {
    const vectors = Math.min(2, rows.padded / 4 - start), each = Array.from({ length: vectors }, (_, i) => start + i);
    const held = added.map((row) => each.map((i) => b.let("held", row(i))));
    b.for("key", common.from, common.count, 1, (key) => {
      const target = rows.row(key), weightAt = b.let("weight_at", i32.add(weights, i32.shl(key, 2)));
      const sums = each.map((i) => b.let("sum", v128.load(target, 16 * i)));
      held.forEach((row, r) => {
        const weight = b.let("weight", v128.load32_splat(weightAt, r * stride));
        sums.forEach((sum, i) => b.set(sum, math.madd(weight, row[i] as Vector, sum)));
      });
      each.forEach((i, n) => b.emit(v128.store(target, sums[n] as Vector, 16 * i)));
    });
  }
  added.forEach((row, r) => {
    addMultiples(code, alone(block, r, "before"), row);
    addMultiples(code, alone(block, r, "behind"), row);
  });
}
