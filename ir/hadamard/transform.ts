/** The reference transform: T_n x = (H_K ⊗ H_{2^m}) x / √n, with x seen as a K by 2^m matrix, without forming T_n. */
import { hadamardFactor, hadamardMatrix, unavailable } from "./orders.ts";

/** How to read and transform the data of `hadamardTransform`. */
export interface HadamardTransformOptions {
  /** Length n of one transformed row; the data hold consecutive rows. Default: all data are one row. */
  readonly rowLength?: number;
  /** Apply T_nᵀ, the inverse, instead of T_n. They differ wherever n has an odd factor. Default: false. */
  readonly transposed?: boolean;
}

/**
 * The orthonormal Hadamard transform of every row: Sylvester's fast transform along the 2^m part, then H_K (or H_Kᵀ) from the left.
 * Sums are kept in float64 whatever the type of the data.
 *
 * @param x Rows of `rowLength` values each, one after the other; left as they are.
 * @returns The transformed rows in an array of the same type.
 * @throws {RangeError} If the data are not whole rows, or no Hadamard matrix of the row's length is known.
 */
export function hadamardTransform<T extends Float32Array | Float64Array>(
  x: T,
  { rowLength = x.length, transposed = false }: HadamardTransformOptions = {},
): T {
  const factor = hadamardFactor(rowLength);
  if (!factor) throw new RangeError(unavailable(rowLength));
  if (x.length % rowLength !== 0) {
    throw new RangeError(`Expected whole rows of ${rowLength} values but found ${x.length} values`);
  }
  const { K, m } = factor;
  const matrix = hadamardMatrix(K);
  const result = x.slice() as T;
  const row = new Float64Array(rowLength);
  for (let start = 0; start < x.length; start += rowLength) {
    row.set(x.subarray(start, start + rowLength));
    walshHadamard(row, 2 ** m);
    const mixed = K === 1 ? row : mixBlocks(matrix, row, K, transposed);
    const scale = 1 / Math.sqrt(rowLength);
    for (let i = 0; i < rowLength; i++) result[start + i] = (mixed[i] ?? 0) * scale;
  }
  return result;
}

/** Unscaled Sylvester transform, in natural order and in place, of every block of 2^m consecutive values. */
function walshHadamard(values: Float64Array, block: number): void {
  for (let half = 1; half < block; half *= 2) {
    for (let start = 0; start < values.length; start += 2 * half) {
      for (let i = start; i < start + half; i++) {
        const a = values[i] ?? 0;
        const b = values[i + half] ?? 0;
        values[i] = a + b;
        values[i + half] = a - b;
      }
    }
  }
}

/** H_K·X or H_Kᵀ·X, where X is the row seen as K blocks. */
function mixBlocks(matrix: Int8Array, row: Float64Array, K: number, transposed: boolean): Float64Array {
  const block = row.length / K;
  const mixed = new Float64Array(row.length);
  for (let i = 0; i < K; i++) {
    for (let k = 0; k < K; k++) {
      const sign = matrix[transposed ? k * K + i : i * K + k] ?? 0;
      for (let j = 0; j < block; j++) {
        mixed[i * block + j] = (mixed[i * block + j] ?? 0) + sign * (row[k * block + j] ?? 0);
      }
    }
  }
  return mixed;
}
