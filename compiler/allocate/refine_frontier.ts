/**
 * The frontier with refined mixtures in it: mixtures that have learned on their own (calibrate/refine.ts) are measured on the tokens
 * that confirmed all others. What a mixture gains by it is not known before, so several compete for a budget. The best one takes its
 * place among the other allocations, unless something cheaper is as good.
 */
import type { BitConfig } from "../../ir/sites.ts";
import type { CalibrationProgress } from "../calibrate/calibrate.ts";
import { type RefineInput, refineMixture } from "../calibrate/refine.ts";
import { type CallStore, overlaid } from "../calibrate/store.ts";
import type { Frontier, FrontierPoint } from "./frontier.ts";
import { confirm } from "./measured_frontier.ts";
import { undominated } from "./search.ts";

/** A mixture to refine. */
export interface Candidate {
  /** Widths of its weights and activations. */
  readonly mixture: BitConfig;
  readonly point: FrontierPoint;
  /** Where it learns to. */
  readonly store: CallStore;
}

/** What came of it. */
export interface RefinedFrontier {
  readonly frontier: Frontier;
  /** The candidates that are part of it. */
  readonly kept: readonly Candidate[];
}

/** Everything that refining is given but what differs from mixture to mixture. */
export interface RefineFrontierInput extends Omit<RefineInput, "mixture" | "store" | "report"> {
  /** Hears which of all candidates, counted through, is learning. */
  readonly report?: (candidate: number, progress: CalibrationProgress) => void;
}

/**
 * Refines candidates one after the other.
 *
 * @param budgets the candidates of every budget; a mixture may stand for several
 */
export async function refineFrontier(
  { report, ...input }: RefineFrontierInput,
  frontier: Frontier,
  budgets: readonly (readonly Candidate[])[],
): Promise<RefinedFrontier> {
  const points = new Map<Candidate, FrontierPoint>();
  for (const [i, candidate] of [...new Set(budgets.flat())].entries()) {
    const { mixture, store, point } = candidate;
    await refineMixture({ ...input, mixture, store, report: (progress) => report?.(i, progress) });
    const measuring = { ...input, store: overlaid(input.begun, store), tokens: input.settings.measureTokens };
    const [measured] = await confirm(measuring, frontier.sites, [point]);
    if (measured) points.set(candidate, measured);
  }
  const lossOf = (candidate: Candidate) => points.get(candidate)?.loss ?? Infinity;
  const winners = budgets.flatMap((own) => own.toSorted((a, b) => lossOf(a) - lossOf(b)).slice(0, 1));
  const placed = new Map(winners.map((winner) => [winner, points.get(winner) as FrontierPoint]));
  const best = undominated([...frontier.points, ...placed.values()]), alive = new Set(best);
  return {
    frontier: { ...frontier, points: best },
    kept: [...placed].flatMap(([candidate, point]) => alive.has(point) ? [candidate] : []),
  };
}
