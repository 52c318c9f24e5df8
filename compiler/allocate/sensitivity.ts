/**
 * How much each site costs at each width: the KL divergence of the next-token distributions, over the vocabulary, between the
 * model in full precision and the model with that one site quantized (quept-method 9.1, as intended rather than as coded).
 * A site in block k pays only for the calls from k on: everything before it is computed once.
 */
import { createPool, within } from "../calibrate/programs.ts";
import { type MeasureBench, type MeasureInput, openBench, type TensorValues } from "./bench.ts";
import type { Tensor } from "../../backends/backend.ts";
import type { Module } from "../../ir/module.ts";
import type { Width } from "../../ir/types.ts";
import { modelSites } from "../model_sites.ts";
import type { AllocationItem } from "./frontier.ts";

/** Loss by width, by global site name. */
export type Sensitivities = Readonly<Record<string, Readonly<Record<number, number>>>>;

/** Measures every weight site of a module at every width of its recipe. */
export const measureSensitivities = async (input: MeasureInput): Promise<Sensitivities> =>
  await within(await openBench(input), (bench) => measureSites(input, bench));

async function measureSites(
  { programs, elastic, recipe, report }: MeasureInput,
  bench: MeasureBench,
): Promise<Sensitivities> {
  const found: Record<string, Record<number, number>> = {}, widths = recipe.bitGroups.flat();
  const all = elastic.calls.flatMap((_, index) => bench.sites(index)).length * widths.length;
  let done = 0, exact: TensorValues = bench.start;
  for (const [index, call] of elastic.calls.slice(0, -1).entries()) {
    const sites = bench.sites(index), together = widthsTogether(bench.together, sites.length);
    for (let first = 0; sites.length > 0 && first < widths.length; first += together) {
      // What differs at one site and width walks through the calls behind together: their weights are read once for all.
      const paths: { readonly site: string; readonly width: Width; values: TensorValues }[] = [];
      for (const width of widths.slice(first, first + together)) {
        const scratch = createPool(programs.backend), weights = await bench.weights(index, width, scratch);
        for (const site of sites) {
          paths.push({ site, width, values: await bench.forward(index, { [site]: weights[site] as Tensor }, exact) });
        }
        scratch.release();
      }
      for (let next = index + 1; next < elastic.calls.length - 1; next++) {
        for (const path of paths) {
          const before = path.values;
          path.values = await bench.forward(next, {}, before);
          bench.discard([before], [exact, path.values]);
        }
      }
      for (const { site, width, values } of paths) {
        (found[call.prefix + site] ??= {})[width] = await bench.divergence(values);
        bench.discard([values], [exact]);
        report?.(++done, all);
      }
    }
    const after = await bench.forward(index, {}, exact);
    bench.discard([exact], [after]);
    exact = after;
  }
  return found;
}

/** How many widths of a call's sites walk through the model together. */
export const widthsTogether = (paths: number, sites: number): number =>
  Math.max(1, Math.floor(paths / Math.max(1, sites)));

/** The weight sites of a module that have been measured, as the knapsack takes them. */
export const allocationItems = (module: Module, sensitivities: Sensitivities): readonly AllocationItem[] =>
  modelSites(module).flatMap(({ name, parameters }) => {
    const loss = sensitivities[name];
    return loss ? [{ site: name, parameters, loss }] : [];
  });
