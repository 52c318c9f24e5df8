/**
 * The search for good allocations among those that can be measured as a whole. Losses of sites do not add up at low widths: each
 * width has learned to undo the errors that its neighbours make at the same width. So what a site gains or loses is measured
 * around the allocations that matter: first around every uniform width, then around the best allocation of each budget, and the
 * knapsack is solved with these local losses. Every solution is measured before it counts.
 */
import { type Random, random } from "../../ir/random.ts";
import { type AllocationItem, frontierOf, type FrontierPoint, lookUp, undominated } from "./frontier.ts";

/** What is searched. Allocations are texts of one digit per site. */
export interface SearchInput {
  /** What each site counts in the budget: its parameters, or 1. */
  readonly counts: readonly number[];
  /** Widths, narrowest first. */
  readonly widths: readonly number[];
  /** Allocations to begin with, beside the uniform ones. */
  readonly candidates: readonly string[];
  /** Losses of allocations; called with those that are not known yet, all of one round together. */
  readonly measure: (allocations: readonly string[]) => Promise<readonly number[]>;
  /** How often each budget's best allocation is tried to be bettered. */
  readonly rounds: number;
  /** How many solutions of the knapsack are drawn around an allocation, at its own budget, with losses that are not trusted. */
  readonly draws: number;
}

/** Budgets whose best allocation is bettered are this many bits apart, and solutions taken from the knapsack half of it. */
const STEP = 0.25;
/** Up to this width mixtures are searched around; above it losses are small and add up. */
const HIGHEST_BASE = 4;

/**
 * Local losses are off by about so much where several sites change (as the exponent of a normal factor): with 3 bits everywhere wider
 * sites gain next to nothing, one by one, and the knapsack's favourite is one of many that are as good. Measured all, some are better.
 */
const DOUBT = 0.5;

/** Everything that was measured: allocations with their mean bits and losses, in the order of measuring. */
export async function searchAllocations(input: SearchInput): Promise<readonly FrontierPoint[]> {
  const { counts, widths, candidates, rounds, draws } = input, rng = random(0, "search");
  const known = new Map<string, FrontierPoint>();
  const measure = async (allocations: Iterable<string>): Promise<void> => {
    const fresh = [...new Set(allocations)].filter((digits) => !known.has(digits));
    if (fresh.length === 0) return;
    const losses = await input.measure(fresh);
    for (const [i, digits] of fresh.entries()) {
      known.set(digits, { meanBits: bitsOf(digits, counts), loss: losses[i] ?? Infinity, widths: digits });
    }
  };
  const lossOf = (digits: string) => known.get(digits)?.loss ?? Infinity;

  /** Solutions of the knapsack around an allocation whose neighbours, `steps` wider, are known. */
  const around = (digits: string, steps: number, reach: number): string[] => {
    const items = itemsAround(digits, counts, widths, steps, lossOf);
    return [...solutionsAround(digits, counts, items, reach), ...drawnAround(digits, counts, items, draws, rng)];
  };

  const uniform = widths.map((width) => String(width).repeat(counts.length));
  await measure([...uniform, ...candidates]);
  const bases = uniform.filter((_, i) => (widths[i] ?? 0) <= HIGHEST_BASE);
  await measure(bases.flatMap((base) => neighboursOf(base, widths, 2)));
  await measure(bases.flatMap((base) => around(base, 2, 1)));
  for (let round = 0; round < rounds; round++) {
    const best = bestPerBudget([...known.values()], Number(uniform[0]?.[0]), HIGHEST_BASE);
    await measure(best.flatMap(({ widths: digits }) => neighboursOf(digits, widths, 1)));
    await measure(best.flatMap(({ widths: digits }) => around(digits, 1, STEP)));
  }
  return [...known.values()];
}

/** Ranges of budgets this wide, in bits, each send their best allocations into the final. */
const FINAL_STEP = 1 / 32;

/** Of ranges that end with one of the usual budgets so many: which one is best there is more luck than the first look tells. */
const FINAL_PLACES = 4;

/** The allocations that are worth a second look: of every small range of budgets the best ones, and equal widths in any case. */
export function finalists(points: readonly FrontierPoint[]): readonly FrontierPoint[] {
  const isUniform = ({ widths }: FrontierPoint) => new Set(widths).size === 1;
  // A whole number of bits ends the range that leads to it.
  const ranges = Map.groupBy(points, ({ meanBits }) => Math.ceil(meanBits / FINAL_STEP - 1e-9));
  const best = [...ranges].flatMap(([range, own]) =>
    own.toSorted((a, b) => a.loss - b.loss).slice(0, range * FINAL_STEP % STEP === 0 ? FINAL_PLACES : 1)
  );
  return [...new Set([...points.filter(isUniform), ...best])];
}

/** Mean bits of an allocation. */
const bitsOf = (digits: string, counts: readonly number[]): number =>
  counts.reduce((sum, count, i) => sum + count * Number(digits[i]), 0) / counts.reduce((a, b) => a + b, 0);

/** The widths that a site at `width` can move to in at most `steps` steps up or one down. */
const movesOf = (width: number, widths: readonly number[], steps: number): readonly number[] => {
  const at = widths.indexOf(width);
  return widths.filter((_, i) => i !== at && i >= at - 1 && i <= at + steps);
};

/** The allocation with one site changed. */
const withWidth = (digits: string, site: number, width: number): string =>
  digits.slice(0, site) + width + digits.slice(site + 1);

/** All allocations that differ from this one at one site. */
const neighboursOf = (digits: string, widths: readonly number[], steps: number): string[] =>
  [...digits].flatMap((digit, site) =>
    movesOf(Number(digit), widths, steps).map((width) => withWidth(digits, site, width))
  );

/** What each site's moves cost around an allocation: differences from its loss. */
const itemsAround = (
  digits: string,
  counts: readonly number[],
  widths: readonly number[],
  steps: number,
  lossOf: (digits: string) => number,
): AllocationItem[] =>
  [...digits].map((digit, site) => {
    const moves = movesOf(Number(digit), widths, steps).map((width) => [
      width,
      lossOf(withWidth(digits, site, width)) - lossOf(digits),
    ]);
    return { site: String(site), parameters: counts[site] ?? 0, loss: { [digit]: 0, ...Object.fromEntries(moves) } };
  });

/** Solutions of the knapsack with local losses, for budgets at most `reach` bits away from the allocation's own. */
function solutionsAround(
  digits: string,
  counts: readonly number[],
  items: readonly AllocationItem[],
  reach: number,
): string[] {
  const own = bitsOf(digits, counts), frontier = frontierOf(items), found: string[] = [];
  for (let budget = own - reach; budget <= own + reach + 1e-9; budget += STEP / 2) {
    const point = lookUp(frontier, budget);
    if (point) found.push(point.widths);
  }
  return found;
}

/** Solutions for the allocation's own budget, each with local losses that are somewhat different. */
function drawnAround(
  digits: string,
  counts: readonly number[],
  items: readonly AllocationItem[],
  draws: number,
  rng: Random,
): string[] {
  const budget = bitsOf(digits, counts);
  return Array.from({ length: draws }, () => {
    const doubted = items.map(({ loss, ...item }) => ({
      ...item,
      loss: Object.fromEntries(
        Object.entries(loss).map(([width, own]) => [width, own * Math.exp(DOUBT * rng.normal())]),
      ),
    }));
    return lookUp(frontierOf(doubted), budget)?.widths ?? digits;
  });
}

/** The best allocation of each budget, `STEP` apart. */
function bestPerBudget(points: readonly FrontierPoint[], least: number, most: number): FrontierPoint[] {
  const kept = { points: undominated(points) }, best = new Set<FrontierPoint>();
  for (let budget = least; budget <= most; budget += STEP) {
    const point = lookUp(kept, budget);
    if (point) best.add(point);
  }
  return [...best];
}
