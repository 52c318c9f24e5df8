/** Calibration sequences as batches of one shape: padded, with a weight per token. */
import type { HostArray } from "../../backends/backend.ts";

/** One batch: token ids and positions i32[B,T], weights f32[B,T,1] (0 for padding). */
export interface Batch {
  readonly ids: Int32Array;
  readonly positions: Int32Array;
  readonly weights: Float32Array;
}

/** Batches of `batch` sequences, each padded behind its end to the longest; the last batch is filled up with empty ones. */
export interface Batches {
  readonly batch: number;
  readonly tokens: number;
  readonly list: readonly Batch[];
}

/** Named values of a module for one batch. */
export type Values = Map<string, HostArray>;

/** Cuts sequences to `limit` tokens and packs them. */
export function batchesOf(sequences: readonly Int32Array[], batch: number, limit: number): Batches {
  const cut = sequences.map((ids) => ids.subarray(0, limit)).filter((ids) => ids.length > 0);
  const tokens = Math.max(1, ...cut.map((ids) => ids.length));
  const list: Batch[] = [];
  for (let start = 0; start < cut.length; start += batch) {
    const ids = new Int32Array(batch * tokens),
      positions = new Int32Array(batch * tokens),
      weights = new Float32Array(batch * tokens);
    for (let row = 0; row < batch; row++) {
      const sequence = cut[start + row] ?? new Int32Array();
      ids.set(sequence, row * tokens);
      weights.fill(1, row * tokens, row * tokens + sequence.length);
      for (let t = 0; t < tokens; t++) positions[row * tokens + t] = t;
    }
    list.push({ ids, positions, weights });
  }
  return { batch, tokens, list };
}

/** Rows (first axis) of several equally shaped arrays: row i from `sources[i]`. */
export function pickRows(sources: readonly HostArray[], rows: number): Float32Array {
  const [first] = sources, length = (first?.length ?? 0) / rows;
  const result = new Float32Array(first?.length ?? 0);
  for (let row = 0; row < rows; row++) {
    result.set(sources[row]?.subarray(row * length, (row + 1) * length) ?? [], row * length);
  }
  return result;
}

/** Values as f32. */
export const asFloats = (values: HostArray): Float32Array =>
  values instanceof Float32Array ? values : Float32Array.from(values);
