/**
 * How much each site costs at each width: the KL divergence of the next-token distributions, over the vocabulary, between the
 * model in full precision and the model with that one site quantized (quept-method 9.1, as intended rather than as coded).
 * A site in block k pays only for the calls from k on: everything before it is computed once.
 */
import { createPool } from "../calibrate/programs.ts";
import { type MeasureInput, openBench, type TensorValues } from "./bench.ts";
import type { Tensor } from "../../backends/backend.ts";

/** Loss by width, by global site name. */
export type Sensitivities = Readonly<Record<string, Readonly<Record<number, number>>>>;

/** Measures every weight site of a module at every width of its recipe. */
export async function measureSensitivities(input: MeasureInput): Promise<Sensitivities> {
  const { programs, elastic, recipe, report } = input, bench = await openBench(input);
  const found: Record<string, Record<number, number>> = {}, widths = recipe.bitGroups.flat();
  const all = elastic.calls.flatMap((_, index) => bench.sites(index)).length * widths.length;
  let done = 0;
  for (const [index, call] of elastic.calls.entries()) {
    const sites = bench.sites(index), before = bench.calls[index]?.before;
    if (sites.length === 0 || !before) continue;
    for (const width of widths) {
      const scratch = createPool(programs.backend), weights = await bench.weights(index, width, scratch);
      for (const site of sites) {
        const step = createPool(programs.backend);
        let after: TensorValues = await bench.forward(index, { [site]: weights[site] as Tensor }, before, step);
        for (let next = index + 1; next < bench.calls.length - 1; next++) {
          after = await bench.forward(next, {}, after, step);
        }
        (found[call.prefix + site] ??= {})[width] = await bench.divergence(after);
        step.release();
        report?.(++done, all);
      }
      scratch.release();
    }
  }
  bench.release();
  return found;
}
