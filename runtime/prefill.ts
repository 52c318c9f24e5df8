/** @file How a prompt is cut into pieces of few sizes, so that few programs are compiled. */

/** Sizes of step programs, in tokens. */
export const BUCKETS = [1, 8, 32, 128, 512] as const;

/** A piece of a prompt: tokens `start` to `end`, run by a program for `bucket` tokens. */
export interface Piece {
  readonly start: number;
  readonly end: number;
  readonly bucket: number;
}

/** Whole buckets of the largest size, and the rest in the smallest bucket that holds it. */
export function piecesOf(tokens: number): readonly Piece[] {
  const largest = BUCKETS[BUCKETS.length - 1] as number, pieces: Piece[] = [];
  for (let start = 0; start < tokens; start += largest) {
    const end = Math.min(tokens, start + largest);
    pieces.push({ start, end, bucket: BUCKETS.find((bucket) => bucket >= end - start) ?? largest });
  }
  return pieces;
}

/**
 * Inputs of a step program, padded to its bucket. Padding stands at the position `capacity`, outside of the cache, so that its
 * keys and values are dropped.
 */
export function stepInputs(
  ids: ArrayLike<number>,
  { start, end, bucket }: Piece,
  past: number,
  capacity: number,
): { readonly ids: Int32Array; readonly positions: Int32Array } {
  const own = new Int32Array(bucket), positions = new Int32Array(bucket).fill(capacity);
  for (let i = start; i < end; i++) {
    own[i - start] = ids[i] ?? 0;
    positions[i - start] = past + i - start;
  }
  return { ids: own, positions };
}
