/**
 * Orthonormal Hadamard transforms of rows in scratch memory: butterflies over the 2^m part of n = K·2^m, then the matrix of
 * order K from a table. Elements are f32 next to each other, or vectors of four rows' elements; butterflies over distances of at least
 * 16 bytes are the same for both.
 */
import { hadamardFactor, hadamardMatrix } from "../../ir/hadamard.ts";
import { f32x4, type FunctionBuilder, i32, type Local, v128 } from "./assembler.ts";
import type { Emitter } from "./emitter.ts";
import { interleaveHigh, interleaveLow, swapHalves, swapPairs } from "./lanes.ts";
import type { Index, Vector } from "./place.ts";

/** A transform of `n` elements of `size` bytes (4, or 16 for vectors). */
export interface Transform {
  readonly n: number;
  readonly size: 4 | 16;
  readonly transposed: boolean;
  /** Address of the row; overwritten. */
  readonly row: Index;
  /** Where the result goes; may equal `row` where `needsRoom` is false, and must differ where it is true. */
  readonly result: Index;
}

/** Whether a transform of this length cannot be done in place. */
export const needsRoom = (n: number): boolean => (hadamardFactor(n)?.K ?? 1) > 1;

/** Writes an unscaled transform: the caller multiplies by 1/√n. */
export function emitTransform({ code, table }: Emitter, { n, size, transposed, row, result }: Transform): void {
  const factor = hadamardFactor(n), { b } = code;
  if (!factor) throw new Error(`Internal error: no Hadamard transform of ${n} values`);
  const { K, m } = factor, block = 2 ** m;
  let half = 1;
  if (size === 4) {
    if (m > 0) withinVectors(b, row, n, Math.min(m, 2));
    half = 4;
  }
  for (; 4 * half <= block; half *= 4) butterfliesOfFour(b, row, n * size, half * size);
  for (; 2 * half <= block; half *= 2) butterflies(b, row, n * size, half * size);
  if (K === 1) return;
  const small = size === 4 && block < 4, mirrored = small !== transposed;
  const matrix = hadamardMatrix(K);
  const entries = Float32Array.from(matrix, (_, at) => matrix[mirrored ? at % K * K + Math.floor(at / K) : at] ?? 0);
  const address = table({ key: `hadamard ${K}${mirrored ? " transposed" : ""}`, values: entries });
  const mix = { K, bytes: block * size, matrix: address, row, result };
  if (small) mixElements(code, mix);
  else mixBlocks(code, mix);
}

/** Distances 1 and 2 of single elements: inside each vector. */
function withinVectors(b: FunctionBuilder, row: Index, n: number, stages: number): void {
  b.for("at", 0, 4 * n, 16, (offset) => {
    const at = b.let("address", i32.add(row, offset));
    const x = b.let("x", v128.load(at));
    const y = b.let("y", f32x4.add(f32x4.mul(x, f32x4.const(1, -1)), swapPairs(x)));
    const z = stages < 2 ? y : f32x4.add(f32x4.mul(y, f32x4.const(1, 1, -1, -1)), swapHalves(y));
    b.emit(v128.store(at, z));
  });
}

/** (a, b) -> (a + b, a - b) over a distance of `half` bytes. */
function butterflies(b: FunctionBuilder, row: Index, bytes: number, half: number): void {
  b.for("start", 0, bytes, 2 * half, (start) => {
    const block = b.let("block", i32.add(row, start));
    b.for("at", 0, half, 16, (offset) => {
      const at = b.let("address", i32.add(block, offset));
      const x = b.let("x", v128.load(at)), y = b.let("y", v128.load(at, half));
      b.emit(v128.store(at, f32x4.add(x, y)), v128.store(at, f32x4.sub(x, y), half));
    });
  });
}

/** Two of these at once, over `half` and 2·`half` bytes: half the memory traffic. */
function butterfliesOfFour(b: FunctionBuilder, row: Index, bytes: number, half: number): void {
  b.for("start", 0, bytes, 4 * half, (start) => {
    const block = b.let("block", i32.add(row, start));
    b.for("at", 0, half, 16, (offset) => {
      const at = b.let("address", i32.add(block, offset));
      const load = (i: number) => b.let("x", v128.load(at, i * half));
      const [x0, x1, x2, x3] = [load(0), load(1), load(2), load(3)];
      const s0 = b.let("s", f32x4.add(x0, x1)), d0 = b.let("d", f32x4.sub(x0, x1));
      const s1 = b.let("s", f32x4.add(x2, x3)), d1 = b.let("d", f32x4.sub(x2, x3));
      b.emit(
        v128.store(at, f32x4.add(s0, s1)),
        v128.store(at, f32x4.add(d0, d1), half),
        v128.store(at, f32x4.sub(s0, s1), 2 * half),
        v128.store(at, f32x4.sub(d0, d1), 3 * half),
      );
    });
  });
}

interface Mix {
  readonly K: number;
  /** Bytes of a block. */
  readonly bytes: number;
  readonly matrix: Index;
  readonly row: Index;
  readonly result: Index;
}

/** Sums that are kept in registers. */
const REGISTERS = 8;

/** result[i] = Σ_k matrix[i, k] · row[k] over blocks of whole vectors, for several i and several vectors at once. K is a multiple of 4. */
function mixBlocks({ b, math }: Emitter["code"], { K, bytes, matrix, row, result }: Mix): void {
  const unroll = bytes % 64 === 0 ? 4 : bytes % 32 === 0 ? 2 : 1, rows = unroll === 4 ? REGISTERS / 4 : 4;
  b.for("i", 0, K, rows, (i) => {
    const signs = b.let("signs", i32.add(matrix, i32.mul(i, 4 * K)));
    const target = b.let("target", i32.add(result, i32.mul(i, bytes)));
    b.for("j", 0, bytes, 16 * unroll, (j) => {
      const sums = Array.from({ length: rows * unroll }, () => b.let("sum", f32x4.const(0)));
      const source = b.let("source", i32.add(row, j)), sign = b.let("sign_at", signs);
      b.for("k", 0, K, 1, () => {
        const values = Array.from({ length: unroll }, (_, u) => b.let("x", v128.load(source, 16 * u)));
        for (let r = 0; r < rows; r++) {
          const own = b.let("sign", v128.load32_splat(sign, 4 * K * r));
          values.forEach((x, u) => accumulate(sums[r * unroll + u], own, x));
        }
        b.set(source, i32.add(source, bytes));
        b.set(sign, i32.add(sign, 4));
      });
      const at = b.let("address", i32.add(target, j));
      sums.forEach((sum, s) => b.emit(v128.store(at, sum, Math.floor(s / unroll) * bytes + 16 * (s % unroll))));
    });
  });

  function accumulate(sum: Local<"v128"> | undefined, x: Vector, y: Vector): void {
    if (sum) b.set(sum, math.madd(x, y, sum));
  }
}

/** The same over blocks of one or two elements: vectors hold four results, and the matrix lies by columns. K is a multiple of 4. */
function mixElements({ b, math }: Emitter["code"], { K, bytes, matrix, row, result }: Mix): void {
  const elements = bytes / 4, wide = REGISTERS / elements, vectors = K / 4, whole = vectors - vectors % wide;
  const some = (i: Index, count: number) => {
    const sums = Array.from({ length: count * elements }, () => b.let("sum", f32x4.const(0)));
    const signs = b.let("signs", i32.add(matrix, i32.shl(i, 4))), source = b.let("source", row);
    b.for("k", 0, K, 1, () => {
      const values = Array.from({ length: elements }, (_, e) => b.let("x", v128.load32_splat(source, 4 * e)));
      for (let w = 0; w < count; w++) {
        const sign = b.let("sign", v128.load(signs, 16 * w));
        values.forEach((x, e) => {
          const sum = sums[w * elements + e];
          if (sum) b.set(sum, math.madd(x, sign, sum));
        });
      }
      b.set(signs, i32.add(signs, 4 * K));
      b.set(source, i32.add(source, bytes));
    });
    const target = b.let("target", i32.add(result, i32.mul(i, 16 * elements)));
    for (let w = 0; w < count; w++) {
      const [x, y] = [sums[w * elements], sums[w * elements + 1]];
      if (x && elements === 1) b.emit(v128.store(target, x, 16 * w));
      if (x && y && elements === 2) {
        b.emit(v128.store(target, interleaveLow(x, y), 32 * w), v128.store(target, interleaveHigh(x, y), 32 * w + 16));
      }
    }
  };
  if (whole > 0) b.for("i", 0, whole, wide, (i) => some(i, wide));
  if (whole < vectors) some(i32.const(whole), vectors - whole);
}
