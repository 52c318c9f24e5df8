/** @file Sequences of unequal lengths as batches of few shapes, so that few programs are compiled and little is padded. */

/** Several sequences in one shape, row by row. */
export interface LengthBatch {
  readonly rows: number;
  /** Tokens per row, padding included; a multiple of `CHUNK`. */
  readonly tokens: number;
  /** i32[rows,tokens]; padding, behind the sequence, is token 0. */
  readonly ids: Int32Array;
  /** i32[rows,tokens], counted from 0 in every row. */
  readonly positions: Int32Array;
  /** The token behind each token, i32[rows,tokens]; 0 where there is none. */
  readonly next: Int32Array;
  /** 1 where `next` is a token of the sequence, otherwise 0. */
  readonly predicts: Uint8Array;
}

/** Tokens whose logits are alive at once. */
export const CHUNK = 64;
/** Lengths beyond this are rounded up to multiples of it, shorter ones to multiples of `CHUNK`. */
const LONG = 512;
const MOST_ROWS = 8;
/** Tokens of a batch, unless one sequence alone is longer: what is computed of a block at once has to fit into memory. */
const MOST_TOKENS = 4096;

/**
 * Packs sequences of similar lengths together, padded behind their ends: since models are causal, padding changes nothing in
 * front of it.
 *
 * @returns batches in order of length; the order of sequences is not kept
 */
export function lengthBatches(sequences: readonly Int32Array[]): readonly LengthBatch[] {
  const sorted = sequences.filter(({ length }) => length > 1).sort((a, b) => a.length - b.length);
  const batches: LengthBatch[] = [];
  // From the longest down: a batch has the shape of its longest sequence, and what is left over is short.
  for (let end = sorted.length; end > 0;) {
    const tokens = paddedLength(sorted[end - 1]?.length ?? 0);
    const rows = Math.min(end, MOST_ROWS, Math.max(1, Math.floor(MOST_TOKENS / tokens)));
    batches.unshift(batchOf(sorted.slice(end - rows, end), tokens));
    end -= rows;
  }
  return batches;
}

/** The length in tokens that a sequence is padded to. */
export function paddedLength(length: number): number {
  const step = length <= LONG ? CHUNK : LONG;
  return Math.ceil(length / step) * step;
}

function batchOf(sequences: readonly Int32Array[], tokens: number): LengthBatch {
  const rows = sequences.length, size = rows * tokens;
  const ids = new Int32Array(size), next = new Int32Array(size), predicts = new Uint8Array(size);
  for (const [row, sequence] of sequences.entries()) {
    ids.set(sequence, row * tokens);
    next.set(sequence.subarray(1), row * tokens);
    predicts.fill(1, row * tokens, row * tokens + sequence.length - 1);
  }
  return { rows, tokens, ids, positions: ids.map((_, i) => i % tokens), next, predicts };
}
