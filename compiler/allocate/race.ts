/**
 * The race of mixtures: those that have learned on their own (calibrate/refine.ts) are measured on the tokens that confirmed the
 * frontier. What a mixture gains by it is not known before, so several compete for a budget: each learns for a while, and the one that
 * is best by then learns to the end.
 */
import type { BitConfig } from "../../ir/sites.ts";
import type { CalibrationProgress } from "../calibrate/calibrate.ts";
import { type RefineInput, refineMixture } from "../calibrate/refine.ts";
import { type CallStore, overlaid } from "../calibrate/store.ts";
import type { FrontierPoint } from "./frontier.ts";
import { confirm } from "./measured_frontier.ts";

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
export interface Race {
  /** The winners, as they were measured at the end. */
  readonly points: ReadonlyMap<Candidate, FrontierPoint>;
  /** How many times a mixture has learned. */
  readonly learned: number;
}

/** Everything that refining is given but what differs from mixture to mixture. */
export interface RaceInput extends Omit<RefineInput, "mixture" | "store" | "report"> {
  /** Names of weights, in the order of the points' digits. */
  readonly sites: readonly string[];
  /** Hears which candidate learns next: while it competes, or to the end. It may have learned all of it in an interrupted run. */
  readonly begins?: (candidate: Candidate, stage: "race" | "refinement") => Promise<void>;
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
export async function raceMixtures(
  { sites, begins, report, ...input }: RaceInput,
  budgets: readonly (readonly Candidate[])[],
): Promise<Race> {
  const tried = [...new Set(budgets.filter(({ length }) => length > 1).flat())];
  let done = 0, all = tried.length + budgets.filter(({ length }) => length > 0).length;
  const learn = async (candidate: Candidate, stage: "race" | "refinement"): Promise<FrontierPoint> => {
    const { mixture, point } = candidate;
    const [store, part] = stage === "race" ? [candidate.trial, TRIAL] : [candidate.store, 1];
    const settings = { ...input.settings, refine: input.settings.refine * part };
    await begins?.(candidate, stage);
    const own = { ...input, settings, mixture, store };
    const converged = await refineMixture({ ...own, report: (progress) => report?.(done, all, progress) });
    done++;
    if (!converged) return { ...point, loss: Infinity };
    const measuring = { ...input, store: overlaid(input.begun, store), tokens: settings.measureTokens };
    return (await confirm(measuring, sites, [point]))[0] ?? point;
  };

  const losses = new Map<Candidate, number>();
  for (const candidate of tried) {
    const { loss } = await learn(candidate, "race");
    losses.set(candidate, Number.isNaN(loss) ? Infinity : loss);
  }
  const lossOf = (candidate: Candidate) => losses.get(candidate) ?? 0;
  const ranked = budgets.map((own) => own.toSorted((a, b) => lossOf(a) - lossOf(b)));
  all = tried.length + new Set(ranked.flatMap(([winner]) => winner ?? [])).size;
  const points = new Map<Candidate, FrontierPoint>(), finished = new Map<Candidate, FrontierPoint>();
  for (const own of ranked) {
    // Who diverges in the end makes way for the next.
    for (const candidate of own) {
      const point = finished.get(candidate) ?? await learn(candidate, "refinement");
      finished.set(candidate, point);
      if (Number.isFinite(point.loss)) {
        points.set(candidate, point);
        break;
      }
      all++;
    }
  }
  return { points, learned: done };
}
