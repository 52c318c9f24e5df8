/**
 * The frontier that an artifact keeps: allocations whose losses were measured as a whole, those that no cheaper one beats. A larger
 * budget thus never has more loss on the measured tokens, and a budget of b bits is never worse there than b bits everywhere. The
 * last word have tokens that the search did not look at. Where a recipe serves quantized activations only, they are part of what is
 * measured, as wide as the widest weight that reads them.
 */
import type { Tensor } from "../../backends/backend.ts";
import type { Width } from "../../ir/types.ts";
import { createPool, type TensorPool, within } from "../calibrate/programs.ts";
import { type ModelSite, modelSites, widthOfReaders } from "../model_sites.ts";
import {
  type MeasureBench,
  measuredActivations,
  measuredSequences,
  type MeasureInput,
  openBench,
  type TensorValues,
} from "./bench.ts";
import { type AllocationItem, type Frontier, type FrontierPoint, lookUp, undominated } from "./frontier.ts";
import { finalists, searchAllocations } from "./search.ts";
import { expandTies, groupFrontier, type TiedOptions } from "./ties.ts";

/** Budgets whose solutions by single-site sensitivities are candidates are this many bits apart. */
const STEP = 0.125;
/** Sites up to which every budget's best allocation is tried to be bettered: a round costs some 20 runs per site. */
const MOST_SITES = 100;

/** Solutions drawn around an allocation; a knapsack of hundreds of sites takes seconds. */
const DRAWS = 32;

/** How often as many tokens as the search has measured on are measured on again, others each time, to confirm what it found. */
const CONFIRMING_PARTS = 2;

/** What a frontier is searched for. */
export interface FrontierRequest extends TiedOptions {
  /** Every weight site with its sensitivities: losses when it alone is quantized. */
  readonly items: readonly AllocationItem[];
}

/** Searches from the solutions that sensitivities predict, measuring as it goes; see search.ts. */
export async function measureFrontier(input: MeasureInput, request: FrontierRequest): Promise<Frontier> {
  const { items, ...options } = request, { points, ties, counts, frontier } = groupFrontier(items, options);
  const { sites } = frontier;
  const widths = input.recipe.bitGroups.flat().sort((a, b) => a - b), candidates: string[] = [];
  for (let budget = Math.min(...widths); budget <= Math.max(...widths); budget += STEP) {
    const point = lookUp({ points }, budget);
    if (point) candidates.push(point.widths);
  }
  let done = 0;
  const found = await within(await openBench(input), (bench) =>
    searchAllocations({
      counts,
      widths,
      candidates,
      rounds: ties.length <= MOST_SITES ? 1 : 0,
      draws: ties.length <= MOST_SITES ? DRAWS : DRAWS / 4,
      measure: async (allocations) => {
        const losses = await measureAll(
          bench,
          reportFrom(input, done),
          sites,
          allocations.map((a) => expandTies(a, ties)),
        );
        done += losses.length;
        return losses;
      },
    }));
  const expanded = found.map((point) => ({ ...point, widths: expandTies(point.widths, ties) }));
  return {
    ...frontier,
    points: undominated(await confirm(reportFrom(input, done), sites, finalists(expanded))),
    ...(input.recipe.track === "activations" ? { activations: true } : {}),
  };
}

/** Which parts of all sequences confirm, in lengths of the first, which the search measures on; that one where there are no others. */
function confirmingParts(all: number, size: number): readonly number[] {
  const others = Math.min(CONFIRMING_PARTS, Math.floor(all / size) - 1);
  return others < 1 ? [0] : Array.from({ length: others }, (_, i) => i + 1);
}

/**
 * Allocations with their losses on tokens that the search has not seen: the least of many losses is partly luck, and would rank a
 * mixture before equal widths that are as good. Where there are no more tokens it is those of the search.
 */
export async function confirm(
  input: MeasureInput,
  sites: readonly string[],
  points: readonly FrontierPoint[],
): Promise<readonly FrontierPoint[]> {
  const size = measuredSequences(input).length, sums = points.map(() => 0);
  const parts = confirmingParts(input.sequences.length, size);
  for (const [done, part] of parts.entries()) {
    const sequences = input.sequences.slice(part * size, (part + 1) * size);
    const measured = reportFrom({ ...input, sequences }, done * points.length);
    const losses = await measureAllocations(measured, sites, points.map(({ widths }) => widths));
    losses.forEach((loss, i) => sums[i] = (sums[i] ?? 0) + loss);
  }
  return points.map((point, i) => ({ ...point, loss: (sums[i] ?? NaN) / parts.length }));
}

/**
 * KL divergence of whole allocations.
 *
 * @param sites global names, in the order of the digits
 * @param allocations one digit per site
 */
export async function measureAllocations(
  input: MeasureInput,
  sites: readonly string[],
  allocations: readonly string[],
): Promise<number[]> {
  return await within(await openBench(input), (bench) => measureAll(bench, input, sites, allocations));
}

/** Measures some at a time. */
async function measureAll(
  bench: MeasureBench,
  input: MeasureInput,
  sites: readonly string[],
  allocations: readonly string[],
): Promise<number[]> {
  const losses: number[] = [];
  while (losses.length < allocations.length) {
    const part = allocations.slice(losses.length, losses.length + bench.together);
    losses.push(...await measureTogether(bench, input, sites, part));
    input.report?.(losses.length, allocations.length);
  }
  return losses;
}

/** The input, with progress counted on top of what is done. */
const reportFrom = (input: MeasureInput, done: number): MeasureInput => ({
  ...input,
  report: (more, all) => input.report?.(done + more, done + all),
});

/**
 * All allocations walk through the model together: each call's weights are made once per width, and what allocations share up to
 * some call is computed once.
 */
async function measureTogether(
  bench: MeasureBench,
  input: MeasureInput,
  sites: readonly string[],
  allocations: readonly string[],
): Promise<number[]> {
  const { programs: { backend }, elastic } = input,
    known = new Map(modelSites(elastic).map((site) => [site.name, site]));
  const column = new Map(sites.map((site, i) => [site, i])), { start } = bench;
  // Digits so far -> values behind them.
  let paths = new Map<string, TensorValues>([["", start]]), prefixes = allocations.map(() => "");
  for (const [index, call] of elastic.calls.slice(0, -1).entries()) {
    const own = bench.sites(index).map((site) => ({ site, at: column.get(call.prefix + site) ?? -1 }));
    const scratch = createPool(backend), inputs = measuredActivations(input, call);
    const digitsUsed = new Set(own.flatMap(({ at }) => allocations.map((digits) => digits[at])));
    const byWidth = await weightsOf(bench, index, digitsUsed, scratch);
    const next = new Map<string, TensorValues>(), behind: string[] = [];
    const lastUse = new Map(prefixes.map((prefix, i) => [prefix, i]));
    for (const [i, digits] of allocations.entries()) {
      const prefix = prefixes[i] ?? "", before = paths.get(prefix) as TensorValues;
      const key = prefix + own.map(({ at }) => digits[at]).join("");
      behind.push(key);
      if (!next.has(key)) {
        const replaced = Object.fromEntries(
          own.map(({ site, at }) => [site, byWidth.get(digits[at] ?? "")?.[site] as Tensor]),
        );
        const weights = Object.fromEntries(own.map(({ site, at }) => [call.prefix + site, Number(digits[at])]));
        // As wide as the widest weight that reads them, as settings `mixed@…aw` have them.
        const activations = Object.fromEntries(
          inputs.map((name) => [name, widthOfReaders(known.get(call.prefix + name) as ModelSite, weights)]),
        );
        next.set(key, await bench.forward(index, replaced, before, activations));
      }
      // A path is either in front of the call or behind it, so that values are alive once per path.
      if (lastUse.get(prefix) === i) {
        paths.delete(prefix);
        bench.discard([before], [...paths.values(), ...next.values()]);
      }
    }
    [paths, prefixes] = [next, behind];
    scratch.release();
  }
  const losses = new Map<string, number>();
  for (const [key, values] of paths) losses.set(key, await bench.divergence(values));
  bench.discard(paths.values(), []);
  return prefixes.map((key) => losses.get(key) ?? NaN);
}

async function weightsOf(
  bench: MeasureBench,
  index: number,
  digits: ReadonlySet<string | undefined>,
  pool: TensorPool,
) {
  const byWidth = new Map<string, TensorValues>();
  for (const digit of digits) {
    if (digit !== undefined) byWidth.set(digit, await bench.weights(index, Number(digit) as Width, pool));
  }
  return byWidth;
}
