/**
 * The search for scales of columns (AWQ; Lin et al., MLSys 2024, section 3.2): s = m^α with m the mean magnitude of what the
 * columns are multiplied with, one exponent α per value that linears read, on a grid, by the loss of the block's output. Published
 * for one width; here one artifact serves all, so an exponent is judged by all bit groups together, each loss relative to that
 * without scales.
 */
import type { ScaledInput } from "../passes/structure/scale_columns.ts";
import type { InputStatistics } from "./input_statistics.ts";

/** What is searched. */
export interface ScaleSearch {
  readonly inputs: readonly ScaledInput[];
  /** By the name of the value. */
  readonly statistics: ReadonlyMap<string, InputStatistics>;
  /** Losses of the block's output per bit group with scales by name; values without one are not scaled. */
  readonly losses: (scales: Scales) => Promise<readonly number[]>;
}

/** Scales f32[outer·inner] by parameter name, local to the function. */
export type Scales = ReadonlyMap<string, Float32Array>;

/** Exponents that are tried; 0 leaves the columns as they are. */
const EXPONENTS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1];

/** The best scales, input after input in the order of computation; all ones where none helps. */
export async function searchScales({ inputs, statistics, losses }: ScaleSearch): Promise<Scales> {
  const ones = inputs.map((input): [string, Float32Array] => [input.name, scalesOf(input, statistics, 0)]);
  const best = new Map(ones), before = await losses(best);
  const judge = async (scales: Scales): Promise<number> => {
    const found = await losses(scales);
    return found.reduce((sum, loss, g) => sum + loss / Math.max(before[g] ?? 0, 1e-12), 0);
  };
  let least = before.length;
  for (const input of inputs) {
    for (const exponent of EXPONENTS) {
      const scales = scalesOf(input, statistics, exponent), value = await judge(new Map(best).set(input.name, scales));
      if (value >= least) continue;
      least = value;
      best.set(input.name, scales);
    }
  }
  return best;
}

/** Statistics of the same values divided by their scales. */
export function scaledStatistics(
  { inputs, statistics }: Pick<ScaleSearch, "inputs" | "statistics">,
  scales: Scales,
): ReadonlyMap<string, InputStatistics> {
  const result = new Map(statistics);
  for (const { value: key, name, repeats, inner } of inputs) {
    const own = statistics.get(key), s = scales.get(name);
    if (!own || !s) continue;
    const at = (column: number) => s[Math.floor(column / inner / repeats) * inner + column % inner] ?? 1;
    result.set(key, {
      magnitude: own.magnitude.map((value, column) => value / at(column)),
      power: own.power.map((value, column) => value / at(column) ** 2),
    });
  }
  return result;
}

/** Magnitudes below this count as this, so that a column that is always zero has a scale. */
const LEAST = 1e-4;

/** m^α of an input, divided by the geometric mean of the largest and the smallest, so that weights keep their size. */
export function scalesOf(
  { value, outer, repeats, inner }: ScaledInput,
  statistics: ReadonlyMap<string, InputStatistics>,
  exponent: number,
): Float32Array {
  const magnitude = statistics.get(value)?.magnitude ?? new Float32Array();
  const scales = Float64Array.from({ length: outer * inner }, (_, i) => {
    const [at, column] = [Math.floor(i / inner) * repeats, i % inner];
    let sum = 0;
    for (let r = 0; r < repeats; r++) sum += magnitude[(at + r) * inner + column] ?? 0;
    return Math.max(sum / repeats, LEAST) ** exponent;
  });
  const middle = Math.sqrt(scales.reduce((a, b) => Math.max(a, b), 0) * scales.reduce((a, b) => Math.min(a, b)));
  return Float32Array.from(scales, (scale) => scale / middle);
}
