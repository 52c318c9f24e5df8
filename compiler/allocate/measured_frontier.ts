/**
 * The frontier that an artifact keeps: allocations whose losses were measured as a whole. Sensitivities are measured one site at a
 * time around full precision, and their sum misjudges mixtures of low widths; so the knapsack's solutions and the uniform
 * widths are candidates, each is run once, and only those that no cheaper candidate beats remain. A larger budget thus never has
 * more loss on the measured tokens, and a budget of b bits is never worse there than b bits everywhere.
 */
import type { Backend, Tensor } from "../../backends/backend.ts";
import type { Width } from "../../ir/types.ts";
import { createPool, type TensorPool } from "../calibrate/programs.ts";
import { type MeasureBench, type MeasureInput, openBench, type TensorValues } from "./bench.ts";
import { type Frontier, type FrontierPoint, lookUp } from "./frontier.ts";

/** Budgets whose knapsack solutions are measured are this many bits apart. */
const STEP = 0.125;

/** Measures candidates of a frontier and keeps the best; see the top of this file. */
export async function measureFrontier(input: MeasureInput, frontier: Frontier): Promise<Frontier> {
  const candidates = candidatesOf(frontier, input.recipe.bitGroups.flat());
  const losses = await measureAllocations(input, frontier.sites, candidates.map(({ widths }) => widths));
  const measured = candidates.map((point, i): FrontierPoint => ({ ...point, loss: losses[i] ?? Infinity }));
  return { ...frontier, points: undominated(measured) };
}

/** Points sorted by bits, each with less loss than all cheaper ones. */
export function undominated(points: readonly FrontierPoint[]): FrontierPoint[] {
  const sorted = [...points].sort((a, b) => a.meanBits - b.meanBits || a.loss - b.loss), kept: FrontierPoint[] = [];
  for (const point of sorted) if (point.loss < (kept.at(-1)?.loss ?? Infinity)) kept.push(point);
  return kept;
}

/** All uniform widths, and the knapsack's solution of every budget, `STEP` apart. */
function candidatesOf(frontier: Frontier, widths: readonly Width[]): FrontierPoint[] {
  const chosen = new Map<string, FrontierPoint>();
  for (const width of widths) {
    const digits = String(width).repeat(frontier.sites.length);
    chosen.set(digits, { meanBits: width, loss: Infinity, widths: digits });
  }
  for (let budget = Math.min(...widths); budget <= Math.max(...widths); budget += STEP) {
    const point = lookUp(frontier, budget);
    if (point) chosen.set(point.widths, point);
  }
  return [...chosen.values()];
}

/**
 * KL divergence of whole allocations. All of them walk through the model together, so that every call's weights are made once per width.
 *
 * @param sites global names, in the order of the digits
 * @param allocations one digit per site
 */
export async function measureAllocations(
  input: MeasureInput,
  sites: readonly string[],
  allocations: readonly string[],
): Promise<number[]> {
  const { programs, elastic, report } = input, { backend } = programs, bench = await openBench(input);
  const column = new Map(sites.map((site, i) => [site, i])), start = bench.calls[0]?.before ?? {};
  const paths = allocations.map(() => start);
  for (const [index, call] of elastic.calls.slice(0, -1).entries()) {
    const own = bench.sites(index).map((site) => ({ site, at: column.get(call.prefix + site) ?? -1 }));
    const scratch = createPool(backend),
      digitsUsed = new Set(own.flatMap(({ at }) => allocations.map((digits) => digits[at])));
    const byWidth = await weightsOf(bench, index, digitsUsed, scratch);
    for (const [i, digits] of allocations.entries()) {
      const replaced = Object.fromEntries(
        own.map(({ site, at }) => [site, byWidth.get(digits[at] ?? "")?.[site] as Tensor]),
      );
      const before = paths[i] as TensorValues;
      const after = await bench.forward(index, replaced, before, { ...scratch, keep: (tensor) => tensor });
      freeAll(backend, before, [start, after]);
      paths[i] = after;
      report?.(index * allocations.length + i + 1, (elastic.calls.length - 1) * allocations.length);
    }
    scratch.release();
  }
  const losses: number[] = [];
  for (const values of paths) {
    losses.push(await bench.divergence(values));
    freeAll(backend, values, [start]);
  }
  bench.release();
  return losses;
}

/** Frees the values that none of the others share. */
function freeAll(backend: Backend, values: TensorValues, others: readonly TensorValues[]): void {
  const shared = new Set(others.flatMap((other) => Object.values(other)));
  for (const tensor of Object.values(values)) if (!shared.has(tensor)) backend.free(tensor);
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
