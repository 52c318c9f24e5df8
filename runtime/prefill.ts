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

/** The first bucket for at least one token, and what all of them cost: a whole piece, or the largest one below and the rest. */
function cheapest(tokens: number): { readonly bucket: number; readonly cost: number } {
  const part = BUCKETS.findLast((bucket) => bucket < tokens), whole = BUCKETS.find((bucket) => bucket >= tokens);
  const choices = [part, whole].flatMap((bucket) =>
    bucket === undefined
      ? []
      : [{ bucket, cost: PIECE_COST + bucket + (bucket < tokens ? cheapest(tokens - bucket).cost : 0) }]
  );
  return choices.reduce((best, choice) => choice.cost < best.cost ? choice : best);
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
