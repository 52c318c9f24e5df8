/** @file Sequences of unequal lengths as batches of few shapes, so that few programs are compiled and little is padded. */
import type { Passage } from "./passages.ts";

/** Several sequences in one shape, row by row. */
export interface LengthBatch {
  /** Which sequence each row is. */
  readonly sources: readonly number[];
  readonly rows: number;
  /** Tokens per row, padding included; a multiple of `CHUNK`. */
  readonly tokens: number;
  /** i32[rows,tokens]; padding, behind the sequence, is token 0. */
  readonly ids: Int32Array;
  /** i32[rows,tokens], counted from 0 in every row. */
  readonly positions: Int32Array;
  /** The token behind each token, i32[rows,tokens]; 0 where there is none. */
  readonly next: Int32Array;
  /** 1 where `next` is a token of the sequence that is to be predicted, otherwise 0. */
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
 * @param sequences all tokens of plain sequences but the first are predicted
 * @returns batches in order of length; the order of sequences is not kept
 */
export function lengthBatches(sequences: readonly (Int32Array | Passage)[]): readonly LengthBatch[] {
  const sorted = sequences.map((each, source) => ({
    source,
    ...(each instanceof Int32Array ? { ids: each, from: 1 } : each),
  }))
    .filter(({ ids, from }) => ids.length > from).sort((a, b) => a.ids.length - b.ids.length);
  const batches: LengthBatch[] = [];
  // From the longest down: a batch has the shape of its longest sequence, and what is left over is short.
  for (let end = sorted.length; end > 0;) {
    const tokens = paddedLength(sorted[end - 1]?.ids.length ?? 0);
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

function batchOf(sequences: readonly (Passage & { readonly source: number })[], tokens: number): LengthBatch {
  const rows = sequences.length, size = rows * tokens;
  const ids = new Int32Array(size), next = new Int32Array(size), predicts = new Uint8Array(size);
  for (const [row, sequence] of sequences.entries()) {
    ids.set(sequence.ids, row * tokens);
    next.set(sequence.ids.subarray(1), row * tokens);
    predicts.fill(1, row * tokens + sequence.from - 1, row * tokens + sequence.ids.length - 1);
  }
  return {
    sources: sequences.map(({ source }) => source),
    rows,
    tokens,
    ids,
    positions: ids.map((_, i) => i % tokens),
    next,
    predicts,
  };
}
