/**
 * Which lengths have a Hadamard transform here, and the matrix of each base order K. A length n is split as K·2^m, so that the
 * 2^m part costs m additions per value and only the K part K of them.
 */
import { finiteField, isPrime } from "./finite_field.ts";
import { paleyOne, paleyTwo } from "./paley.ts";
import { circulantHadamard, circulantRows } from "./circulants.ts";

/** A length n = K·2^m whose transform is (H_K ⊗ H_{2^m}) / √n. */
export interface HadamardFactor {
  readonly K: number;
  readonly m: number;
}

/** Bounds the search: the dense part costs K additions per value and K² bytes of matrix. No model at hand needs more than 172. */
const LARGEST_FACTOR = 1024;

/**
 * Splits a length into K·2^m with the smallest K that has a construction; K = 1 for powers of two.
 *
 * @param n Length of the transformed axis, a positive integer.
 * @returns The factors, or undefined where no Hadamard matrix of order n exists or none is known here.
 */
export function hadamardFactor(n: number): HadamardFactor | undefined {
  if (!Number.isInteger(n) || n < 1) return undefined;
  let m = 0;
  let odd = n;
  for (; odd % 2 === 0; odd /= 2) m++;
  for (let K = odd; m >= 0 && K <= LARGEST_FACTOR; K *= 2, m--) if (construction(K)) return { K, m };
  return undefined;
}

/**
 * The +-1 matrix H of order K with H·Hᵀ = K·I, row-major. Not symmetric in general: its inverse is Hᵀ/K, not H/K.
 *
 * @throws {RangeError} If no Hadamard matrix of that order exists, or none is known here.
 */
export function hadamardMatrix(K: number): Int8Array {
  const build = Number.isInteger(K) && K >= 1 ? construction(K) : undefined;
  if (build) return build();
  throw new RangeError(unavailable(K));
}

/** Why a length cannot be transformed, worded for an error. */
export function unavailable(n: number): string {
  if (!Number.isInteger(n) || n < 1) {
    return `Expected the order of a Hadamard matrix to be a positive integer but found ${n}`;
  }
  return n > 2 && n % 4 !== 0
    ? `Cannot build a Hadamard matrix of order ${n}: expected 1, 2 or a multiple of 4`
    : `Cannot build a Hadamard matrix of order ${n}: no construction is known here for it`;
}

/** The first construction that yields order K, or undefined. Doubling comes last: halving n further is the cheaper split. */
function construction(K: number): (() => Int8Array) | undefined {
  if (K === 1) return () => Int8Array.of(1);
  if (K % 2 !== 0) return undefined;
  if (K % 4 === 0) {
    const one = isPrime(K - 1) ? finiteField(K - 1) : undefined; // K - 1 ≡ 3 (mod 4)
    if (one) return () => paleyOne(one);
    const two = K % 8 === 4 ? finiteField(K / 2 - 1) : undefined; // K/2 - 1 ≡ 1 (mod 4)
    if (two) return () => paleyTwo(two);
    const stored = circulantRows(K);
    if (stored) return () => circulantHadamard(stored);
  }
  const half = construction(K / 2);
  return half && (() => doubled(half()));
}

/** Sylvester's doubling [[H, H], [H, -H]]. */
function doubled(h: Int8Array): Int8Array {
  const k = Math.sqrt(h.length);
  const result = new Int8Array(4 * h.length);
  for (let i = 0; i < k; i++) {
    const row = h.subarray(i * k, (i + 1) * k);
    for (const half of [0, 1]) result.set(row, 2 * i * k + half * k);
    result.set(row, 2 * (i + k) * k);
    result.set(row.map((value) => -value), 2 * (i + k) * k + k);
  }
  return result;
}
