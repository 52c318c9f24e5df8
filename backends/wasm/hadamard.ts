/**
 * Orthonormal Hadamard transforms of rows in scratch memory: butterflies over the 2^m part of n = K·2^m, then the matrix of
 * order K from a table. Elements are f32 next to each other, or vectors of four rows' elements; butterflies over distances of at least
 * 16 bytes are the same for both.
 */
import { hadamardFactor, hadamardMatrix } from "../../ir/hadamard.ts";
import { f32x4, type FunctionBuilder, i32, v128 } from "./assembler.ts";
import type { Emitter } from "./kernel.ts";
import { swapHalves, swapPairs } from "./lanes.ts";
import type { Index } from "./place.ts";

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
  const matrix = hadamardMatrix(K);
  const entries = Float32Array.from(matrix, (_, at) => {
    const i = Math.floor(at / K), k = at % K;
    return matrix[transposed ? k * K + i : at] ?? 0;
  });
  const address = table({ key: `hadamard ${K}${transposed ? " transposed" : ""}`, values: entries });
  mixBlocks(code, { K, bytes: block * size, matrix: address, row, result });
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

/** result[i] = Σ_k matrix[i, k] · row[k] over blocks. */
function mixBlocks({ b, math }: Emitter["code"], { K, bytes, matrix, row, result }: Mix): void {
  const width = bytes >= 16 ? 16 : 4, unroll = bytes % 64 === 0 ? 4 : 1;
  b.for("i", 0, K, 1, (i) => {
    const signs = b.let("signs", i32.add(matrix, i32.mul(i, 4 * K)));
    const target = b.let("target", i32.add(result, i32.mul(i, bytes)));
    b.for("j", 0, bytes, width * unroll, (j) => {
      const sums = Array.from({ length: unroll }, () => b.let("sum", f32x4.const(0)));
      const source = b.let("source", i32.add(row, j));
      b.for("k", 0, 4 * K, 4, (k) => {
        const sign = b.let("sign", v128.load32_splat(i32.add(signs, k)));
        sums.forEach((sum, u) => {
          const x = width === 16 ? v128.load(source, 16 * u) : v128.load32_splat(source, 4 * u);
          b.set(sum, math.madd(sign, x, sum));
        });
        b.set(source, i32.add(source, bytes));
      });
      const at = b.let("address", i32.add(target, j));
      sums.forEach((sum, u) =>
        b.emit(width === 16 ? v128.store(at, sum, 16 * u) : v128.store32_lane(at, sum, 0, 4 * u))
      );
    });
  });
}
