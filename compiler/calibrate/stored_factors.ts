/** Factors of adapters in codes, as artifacts store them: for every row of B and column of A the codes of its ranks, and scales of them. */
import { type HostArray, hostArray } from "../../backends/backend.ts";
import { FACTOR_CODES, LEAST_FACTOR_SCALE } from "../../ir/composites/quantizers.ts";
import type { StoredTensor } from "./store.ts";

/** Which factor, and how it is divided. */
export interface FactorLayout {
  readonly side: keyof typeof FACTOR_CODES;
  /** Ends of the segments of ranks that have a scale each; the last one is R. */
  readonly ends: readonly number[];
  /** p for B, q for A. */
  readonly rows: number;
}

/** The tensors that a factor is stored as. */
export interface EncodedFactor {
  readonly codes: StoredTensor;
  readonly scale: StoredTensor;
}

/**
 * Rounds a factor to codes: tensors `<name>.codes` [n,R] and `<name>.scale` f32[n,S], the scale of a segment being its largest
 * magnitude by the top code.
 *
 * @param values f32[R,n], as it was learned
 */
export function encodeFactor(name: string, values: Float32Array, { side, ends, rows }: FactorLayout): EncodedFactor {
  const { dtype, top, zero } = FACTOR_CODES[side], ranks = ends.at(-1) ?? 0;
  const codes = hostArray(dtype, rows * ranks), scales = new Float32Array(rows * ends.length);
  for (let row = 0; row < rows; row++) {
    for (const [s, end] of ends.entries()) {
      let largest = 0;
      for (let r = ends[s - 1] ?? 0; r < end; r++) largest = Math.max(largest, Math.abs(values[r * rows + row] ?? 0));
      const scale = Math.max(Math.fround(largest / top), LEAST_FACTOR_SCALE);
      scales[row * ends.length + s] = scale;
      for (let r = ends[s - 1] ?? 0; r < end; r++) {
        const code = Math.round((values[r * rows + row] ?? 0) / scale);
        codes[row * ranks + r] = zero + Math.min(top, Math.max(-top, code));
      }
    }
  }
  return {
    codes: { name: `${name}.codes`, dtype, shape: [rows, ranks], values: codes },
    scale: { name: `${name}.scale`, dtype: "f32", shape: [rows, ends.length], values: scales },
  };
}

/** The factor f32[R,n] that codes stand for. */
export function decodeFactor(codes: HostArray, scales: HostArray, { side, ends, rows }: FactorLayout): Float32Array {
  const { zero } = FACTOR_CODES[side], ranks = ends.at(-1) ?? 0, values = new Float32Array(rows * ranks);
  for (let row = 0; row < rows; row++) {
    for (const [s, end] of ends.entries()) {
      const scale = scales[row * ends.length + s] ?? 0;
      for (let r = ends[s - 1] ?? 0; r < end; r++) {
        values[r * rows + row] = ((codes[row * ranks + r] ?? 0) - zero) * scale;
      }
    }
  }
  return values;
}
