/**
 * Mixed precision as a multiple-choice knapsack (quept-method 9.2): one width per site, least total loss under a budget of
 * bits. Solved exactly for all budgets at once, so that any budget is looked up later.
 */

/** A site with the loss that each width costs; it takes no width that has none. */
export interface AllocationItem {
  readonly site: string;
  /** Weights of the site: what its width is multiplied with in the budget. */
  readonly parameters: number;
  readonly loss: Readonly<Record<number, number>>;
}

/** One solution. */
export interface FrontierPoint {
  /** Mean bits per weight (or per site, where budgets count sites). */
  readonly meanBits: number;
  readonly loss: number;
  /** One digit per site, in the order of `sites`. */
  readonly widths: string;
}

/** Solutions for rising budgets; each is the best for its budget. */
export interface Frontier {
  /** Weight sites in the order of the points' digits, with the number of their parameters. */
  readonly sites: readonly string[];
  readonly parameters: readonly number[];
  /** Sorted by mean bits, fewest first. */
  readonly points: readonly FrontierPoint[];
  /** Whether budgets count every site once, as the published code does, and not its weights. */
  readonly countsSites?: boolean;
  /** Whether losses were measured with quantized activations, as wide as the widest weight that reads them. */
  readonly activations?: boolean;
  /** Points of mixtures that have learned on their own (calibrate/refine.ts); they stand for nothing but what was measured. */
  readonly refined?: readonly FrontierPoint[];
}

/** Points sorted by bits, each with less loss than all cheaper ones. */
export function undominated(points: readonly FrontierPoint[]): FrontierPoint[] {
  const sorted = [...points].sort((a, b) => a.meanBits - b.meanBits || a.loss - b.loss), kept: FrontierPoint[] = [];
  for (const point of sorted) if (point.loss < (kept.at(-1)?.loss ?? Infinity)) kept.push(point);
  return kept;
}

/** Budgets are so many bits apart. */
const STEP = 0.01;
/** More cost units than this and costs are rounded up to coarser ones: the exact table would not fit. */
const MOST_UNITS = 200_000;

/**
 * The best allocation for every budget from the least to the most possible mean width. Deterministic: of equal
 * losses the cheaper allocation wins, then the one with lower widths at earlier sites. A larger budget never has more loss.
 */
export function frontierOf(items: readonly AllocationItem[]): Frontier {
  const counts = items.map(({ parameters }) => parameters);
  const frontier = { sites: items.map(({ site }) => site), parameters: counts };
  if (items.length === 0) return { ...frontier, points: [] };
  const total = counts.reduce((a, b) => a + b, 0), widths = widthsOf(items);
  const highest = widths.at(-1) as number, lowest = widths[0] as number;
  const unit = Math.max(counts.reduce(gcd), Math.ceil(total * highest / MOST_UNITS));
  const cost = (item: number, width: number) => Math.ceil((counts[item] ?? 0) * width / unit);
  const capacity = items.reduce((sum, _, i) => sum + cost(i, highest), 0);

  // best[c]: least loss of the items so far with cost of exactly c; choice[i][c]: the width of item i in it.
  let best = new Float64Array(capacity + 1).fill(Infinity);
  best[0] = 0;
  const choices: Uint8Array[] = [];
  for (const [i, item] of items.entries()) {
    const next = new Float64Array(capacity + 1).fill(Infinity), choice = new Uint8Array(capacity + 1);
    for (const width of widths) {
      const add = cost(i, width), loss = item.loss[width] ?? Infinity;
      if (loss === Infinity) continue;
      for (let c = add; c <= capacity; c++) {
        const sum = (best[c - add] ?? Infinity) + loss;
        if (sum < (next[c] ?? Infinity)) {
          next[c] = sum;
          choice[c] = width;
        }
      }
    }
    best = next;
    choices.push(choice);
  }

  const points: FrontierPoint[] = [];
  let at = -1, least = Infinity, scanned = 0;
  for (let budget = lowest; budget <= highest + STEP / 2; budget += STEP) {
    // Costs are rounded up, so that a solution never exceeds the budget it is given for.
    const limit = Math.min(capacity, Math.floor(budget * total / unit + 1e-6));
    for (; scanned <= limit; scanned++) {
      if ((best[scanned] ?? Infinity) < least) [least, at] = [best[scanned] as number, scanned];
    }
    if (at < 0) continue;
    const digits = traceBack(choices, at, cost);
    const meanBits = digits.reduce((sum, width, i) => sum + width * (counts[i] ?? 0), 0) / total;
    if (points.at(-1)?.widths !== digits.join("")) points.push({ meanBits, loss: least, widths: digits.join("") });
  }
  return { ...frontier, points };
}

/** The solution for a budget of mean bits: the best that does not exceed it. */
export function lookUp({ points }: Pick<Frontier, "points">, budget: number): FrontierPoint | undefined {
  return points.filter(({ meanBits }) => meanBits <= budget + 1e-9).at(-1);
}

function traceBack(
  choices: readonly Uint8Array[],
  end: number,
  cost: (item: number, width: number) => number,
): number[] {
  const digits: number[] = [];
  let c = end;
  for (let i = choices.length - 1; i >= 0; i--) {
    const width = choices[i]?.[c] ?? 0;
    digits[i] = width;
    c -= cost(i, width);
  }
  return digits;
}

/** Widths that some item has a loss for, ascending. */
const widthsOf = (items: readonly AllocationItem[]): number[] =>
  [...new Set(items.flatMap(({ loss }) => Object.keys(loss).map(Number)))].sort((a, b) => a - b);

function gcd(a: number, b: number): number {
  return b === 0 ? a : gcd(b, a % b);
}
