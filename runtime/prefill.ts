/** @file How a prompt is cut into pieces of few sizes, so that few programs are compiled. */

/** Sizes of step programs, in tokens. */
export const BUCKETS = [1, 8, 32, 128, 512] as const;

/** A piece of a prompt: tokens `start` to `end`, run by a program for `bucket` tokens. */
export interface Piece {
  readonly start: number;
  readonly end: number;
  readonly bucket: number;
}

/** What running a piece costs beside its tokens, padding included, in tokens: weights are read and unpacked once per piece. */
const PIECE_COST = 16;

/** Whole buckets of the largest size, and the rest in those that cost least together, the largest first. */
export function piecesOf(tokens: number): readonly Piece[] {
  const largest = BUCKETS[BUCKETS.length - 1] as number, pieces: Piece[] = [];
  for (let start = 0; start < tokens;) {
    const rest = tokens - start, bucket = rest >= largest ? largest : cheapest(rest).bucket;
    const end = Math.min(tokens, start + bucket);
    pieces.push({ start, end, bucket });
    start = end;
  }
  return pieces;
}

/** The first bucket for less than the largest number of tokens, and what all of them cost. */
function cheapest(tokens: number): { readonly bucket: number; readonly cost: number } {
  let best = { bucket: 0, cost: tokens > 0 ? Infinity : 0 };
  for (const bucket of BUCKETS) {
    // Of buckets below the rest only the largest is worth a look.
    const whole = bucket >= tokens, next = BUCKETS.find((other) => other > bucket) ?? Infinity;
    if (!whole && next <= tokens) continue;
    const cost = PIECE_COST + bucket + (whole ? 0 : cheapest(tokens - bucket).cost);
    if (cost < best.cost) best = { bucket, cost };
    if (whole) break;
  }
  return best;
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
