/** @file Mixtures that learn on their own: which ones, and where what they learn is kept. */
import type { Frontier } from "../compiler/allocate/frontier.ts";
import { type Candidate, refineFrontier } from "../compiler/allocate/refine_frontier.ts";
import { refinedConfig, type RefinedWidths, refinedWidths } from "../compiler/artifact/refined.ts";
import { type BitSpec, configOf } from "../compiler/bit_spec.ts";
import { sizeModelOf } from "../compiler/budget.ts";
import type { CalibrationProgress } from "../compiler/calibrate/calibrate.ts";
import { type RefineInput, refineMixture } from "../compiler/calibrate/refine.ts";
import type { CallStore } from "../compiler/calibrate/store.ts";
import type { JsonObject } from "../compiler/frontends/json.ts";
import { modelSites } from "../compiler/model_sites.ts";
import type { Recipe } from "../compiler/recipe.ts";
import { FULL_WIDTH } from "../ir/sites.ts";
import { sha256 } from "./verify_checkpoint.ts";

/** Opens a store for a part of a compilation that depends on `what` beside all else. */
export type PartStore = (name: string, what?: JsonObject) => Promise<CallStore>;

/** A calibration that is over, and what was asked for. */
export interface RefineAskedInput extends Omit<RefineInput, "mixture" | "store" | "report"> {
  readonly specs: readonly BitSpec[];
  /** The allocations of the artifact so far. */
  readonly frontier: Frontier;
  /** Other allocations, the best by other measures. */
  readonly others: readonly Frontier[];
  readonly partStore: PartStore;
  /** Hears which of how many times that a mixture learns this is. */
  readonly report?: (done: number, all: number, progress: CalibrationProgress) => void;
}

/** A mixture that has learned on its own. */
export interface RefinedMixture {
  readonly widths: RefinedWidths;
  readonly store: CallStore;
}

/**
 * Refines the mixtures that were asked for. Those that frontiers measure compete for their budgets: the best that was found so far and
 * the best by other measures. Behind them come mixtures with pins or with other activations, as the frontier has them by then. Equal
 * widths everywhere are not refined: they are what all have learned for.
 */
export async function refineAsked(
  { specs, frontier, others, partStore, report, ...input }: RefineAskedInput,
): Promise<{ readonly frontier: Frontier; readonly refined: readonly RefinedMixture[] }> {
  const sites = modelSites(input.elastic), size = sizeModelOf(input.elastic, input.recipe.scheme);
  const { measured = [], others: rest = [] } = Object.groupBy(
    specs.filter(({ kind }) => kind === "mixed"),
    (spec) => isMeasured(spec, input.recipe) ? "measured" : "others",
  );
  const widthsFor = (spec: BitSpec, from: Frontier): RefinedWidths | undefined => {
    const config = configOf(spec, sites, from, size), weights = new Set(from.sites.map((site) => config[site]));
    return weights.size > 1 ? refinedWidths(config, sites) : undefined;
  };
  const storeOf = async (widths: RefinedWidths, kind: "refined" | "tried" = "refined"): Promise<CallStore> => {
    const mixture = widths.join(), name = (await sha256(new TextEncoder().encode(mixture))).slice(0, 16);
    return await partStore(`${kind}-${name}`, { mixture });
  };

  const known = new Map<string, Candidate>(), budgets: (readonly Candidate[])[] = [];
  for (const spec of measured) {
    const own = new Set<Candidate>();
    for (const from of [frontier, ...others]) {
      const widths = widthsFor(spec, from), mixture = refinedConfig(widths ?? [], sites);
      const point = from.points.find((one) => one.widths === from.sites.map((site) => mixture[site]).join(""));
      if (!widths || !point) continue;
      const candidate = known.get(point.widths) ??
        { mixture, point, store: await storeOf(widths), trial: await storeOf(widths, "tried") };
      known.set(point.widths, candidate);
      own.add(candidate);
    }
    budgets.push([...own]);
  }
  const found = await refineFrontier(
    { ...input, report: (done, all, progress) => report?.(done, all + rest.length, progress) },
    frontier,
    budgets,
  );
  const refined = found.kept.map(({ mixture, store }): RefinedMixture => {
    return { widths: refinedWidths(mixture, sites), store };
  });
  for (const [i, spec] of rest.entries()) {
    const widths = widthsFor(spec, found.frontier);
    if (!widths || refined.some((one) => one.widths.join() === widths.join())) continue;
    const store = await storeOf(widths), mixture = refinedConfig(widths, sites);
    const done = found.learned + i, all = found.learned + rest.length;
    await refineMixture({ ...input, mixture, store, report: (progress) => report?.(done, all, progress) });
    refined.push({ widths, store });
  }
  return { frontier: found.frontier, refined };
}

/** Whether frontiers measure what a setting quantizes: no pins, and activations as wide as their readers where they are part of it. */
const isMeasured = ({ pins = [], activations = FULL_WIDTH }: BitSpec, { track }: Recipe): boolean =>
  pins.length === 0 && activations === (track === "activations" ? "weights" : FULL_WIDTH);
