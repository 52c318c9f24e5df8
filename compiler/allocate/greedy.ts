/**
 * @file Greedy allocation, a usual alternative to the knapsack: starting with every site at the lowest width, the step up that
 * saves most loss per bit is taken, again and again. Its result depends on sums of single-site losses alone.
 */
import type { AllocationItem, FrontierPoint } from "./frontier.ts";

/** The allocation that greedy steps reach within a budget of mean bits per weight. */
export function greedyAllocation(items: readonly AllocationItem[], budget: number): FrontierPoint {
  const total = items.reduce((sum, { parameters }) => sum + parameters, 0);
  const steps = items.map(({ loss }) => Object.keys(loss).map(Number).sort((a, b) => a - b));
  const at = items.map(() => 0);
  const widthOf = (i: number) => steps[i]?.[at[i] ?? 0] ?? 0, lossOf = (i: number) => items[i]?.loss[widthOf(i)] ?? 0;
  let bits = items.reduce((sum, { parameters }, i) => sum + parameters * widthOf(i), 0);
  for (;;) {
    let best = -1, most = -Infinity;
    for (const [i, { parameters, loss }] of items.entries()) {
      const next = steps[i]?.[(at[i] ?? 0) + 1];
      if (next === undefined) continue;
      const price = parameters * (next - widthOf(i)), gain = (lossOf(i) - (loss[next] ?? Infinity)) / price;
      if (bits + price <= budget * total + 1e-6 && gain > most) [best, most] = [i, gain];
    }
    if (best < 0) break;
    bits -= (items[best]?.parameters ?? 0) * widthOf(best);
    at[best] = (at[best] ?? 0) + 1;
    bits += (items[best]?.parameters ?? 0) * widthOf(best);
  }
  return {
    meanBits: bits / total,
    loss: items.reduce((sum, _, i) => sum + lossOf(i), 0),
    widths: items.map((_, i) => widthOf(i)).join(""),
  };
}
