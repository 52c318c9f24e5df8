/**
 * The frontier with refined mixtures in it: mixtures that have learned on their own (calibrate/refine.ts) are measured on the tokens
 * that confirmed all others. What a mixture gains by it is not known before, so several compete for a budget: each learns for a while,
 * and the one that is best by then learns to the end. It takes its place among the other allocations, unless something cheaper is as
 * good.
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
  /** Where it learns to while it competes. */
  readonly trial: CallStore;
}

/** What came of it. */
export interface RefinedFrontier {
  readonly frontier: Frontier;
  /** The candidates that are part of it. */
  readonly kept: readonly Candidate[];
  /** How many times a mixture has learned. */
  readonly learned: number;
}

/** Everything that refining is given but what differs from mixture to mixture. */
export interface RefineFrontierInput extends Omit<RefineInput, "mixture" | "store" | "report"> {
  /** Hears which of how many times that a mixture learns this is. */
  readonly report?: (done: number, all: number, progress: CalibrationProgress) => void;
}

/** While mixtures compete they learn for this part of the steps: who leads then mostly does so at the end. */
const TRIAL = 1 / 3;

/**
 * Refines the best candidate of every budget.
 *
 * @param budgets the candidates of every budget; a mixture may stand for several
 */
export async function refineFrontier(
  { report, ...input }: RefineFrontierInput,
  frontier: Frontier,
  budgets: readonly (readonly Candidate[])[],
): Promise<RefinedFrontier> {
  const tried = [...new Set(budgets.filter(({ length }) => length > 1).flat())];
  const all = tried.length + budgets.filter(({ length }) => length > 0).length;
  let done = 0;
  const learn = async ({ mixture, point }: Candidate, store: CallStore, part: number): Promise<FrontierPoint> => {
    const settings = { ...input.settings, refine: input.settings.refine * part };
    await refineMixture({ ...input, settings, mixture, store, report: (progress) => report?.(done, all, progress) });
    done++;
    const measuring = { ...input, store: overlaid(input.begun, store), tokens: settings.measureTokens };
    return (await confirm(measuring, frontier.sites, [point]))[0] ?? point;
  };

  const losses = new Map<Candidate, number>();
  for (const candidate of tried) losses.set(candidate, (await learn(candidate, candidate.trial, TRIAL)).loss);
  const lossOf = (candidate: Candidate) => losses.get(candidate) ?? 0;
  const winners = new Set(budgets.flatMap((own) => own.toSorted((a, b) => lossOf(a) - lossOf(b)).slice(0, 1)));
  const points = new Map<Candidate, FrontierPoint>();
  for (const winner of winners) points.set(winner, await learn(winner, winner.store, 1));
  const best = undominated([...frontier.points, ...points.values()]), alive = new Set(best);
  return {
    frontier: { ...frontier, points: best },
    kept: [...points].flatMap(([candidate, point]) => alive.has(point) ? [candidate] : []),
    learned: done,
  };
}
