/** @file Mixtures that learn on their own: which ones, and where what they learn is kept. */
import { type Frontier, undominated } from "../compiler/allocate/frontier.ts";
import { type Candidate, raceMixtures } from "../compiler/allocate/race.ts";
import { refinedConfig, type RefinedWidths, refinedWidths } from "../compiler/artifact/refined.ts";
import { configOf, isMeasured, type MixedSpec } from "../compiler/bit_spec.ts";
import { sizeModelOf } from "../compiler/budget.ts";
import type { CalibrationProgress } from "../compiler/calibrate/calibrate.ts";
import { type RefineInput, refineMixture } from "../compiler/calibrate/refine.ts";
import type { CallStore } from "../compiler/calibrate/store.ts";
import type { JsonObject } from "../compiler/frontends/json.ts";
import { modelSites } from "../compiler/model_sites.ts";
import { UserError } from "../ir/errors.ts";
import type { LossCurve } from "./loss_log.ts";
import { sha256 } from "./verify_checkpoint.ts";

/** Opens a store for a part of a compilation that depends on `what` beside all else. */
export type PartStore = (name: string, what?: JsonObject) => Promise<CallStore>;

/** A calibration that is over, and what was asked for. */
export interface RefineAskedInput extends Omit<RefineInput, "mixture" | "store" | "report"> {
  readonly specs: readonly MixedSpec[];
  /** The allocations of the artifact so far. */
  readonly frontier: Frontier;
  /** Other allocations, the best by other measures. */
  readonly others: readonly Frontier[];
  readonly partStore: PartStore;
  /** Hears which mixture learns next; it may have learned all of it in an interrupted run. */
  readonly begins?: (curve: LossCurve) => void;
  /** Hears which of how many times that a mixture learns this is. */
  readonly report?: (done: number, all: number, progress: CalibrationProgress) => void;
  /** Hears what there is to say: a sentence without a final period. */
  readonly note?: (text: string) => void;
}

/** A mixture that has learned on its own. */
export interface RefinedMixture {
  readonly widths: RefinedWidths;
  readonly store: CallStore;
}

/**
 * Refines the mixtures that were asked for. Those that the frontier measures compete for their budgets: the best that the search has
 * found and the best by other measures; the frontier gets the winners that what was asked for comes to. Behind them come mixtures with
 * pins or with other activations, as the frontier has them. Equal widths everywhere are not refined: they are what all have learned for.
 */
export async function refineAsked(
  { specs, frontier, others, partStore, begins, report, note, ...input }: RefineAskedInput,
): Promise<{ readonly frontier: Frontier; readonly refined: readonly RefinedMixture[] }> {
  const sites = modelSites(input.elastic), size = sizeModelOf(input.elastic, input.recipe.scheme);
  const { measured = [], rest = [] } = Object.groupBy(
    specs,
    (spec) => isMeasured(spec, frontier) ? "measured" : "rest",
  );
  /** The widths of a setting by a frontier; undefined where that has nothing within the budget, or equal weights everywhere. */
  const widthsFor = (spec: MixedSpec, from: Frontier): RefinedWidths | undefined => {
    try {
      const config = configOf(spec, sites, from, size), weights = new Set(from.sites.map((site) => config[site]));
      return weights.size > 1 ? refinedWidths(config, sites) : undefined;
    } catch (error) {
      // What the artifact has nothing for is found out when its plan is made.
      if (error instanceof UserError) return undefined;
      throw error;
    }
  };
  const partOf = (widths: RefinedWidths) => ({ mixture: widths.join(), refine: input.settings.refine });
  // One that learns for a while of another length is another one: neither gets in the other's way.
  const nameOf = async (widths: RefinedWidths): Promise<string> =>
    (await sha256(new TextEncoder().encode(JSON.stringify(partOf(widths))))).slice(0, 16);
  const storeOf = async (widths: RefinedWidths, kind: "refined" | "tried" = "refined"): Promise<CallStore> =>
    await partStore(`${kind}-${await nameOf(widths)}`, partOf(widths));
  const begin = async (stage: "race" | "refinement", widths: RefinedWidths, own: readonly MixedSpec[]): Promise<void> =>
    begins?.({ stage, mixture: own.map(({ text }) => text).join(), candidate: await nameOf(widths) });

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
  const { points, learned } = await raceMixtures(
    {
      ...input,
      sites: frontier.sites,
      begins: (candidate, stage) => {
        const own = measured.filter((_, i) => budgets[i]?.includes(candidate));
        return begin(stage, refinedWidths(candidate.mixture, sites), own);
      },
      report: (done, all, progress) => report?.(done, all + rest.length, progress),
    },
    budgets,
  );
  for (const [i, own] of budgets.entries()) {
    const spec = measured[i];
    if (spec && own.length > 0 && !own.some((candidate) => points.has(candidate))) note?.(notRefined(spec));
  }
  const alive = new Set(undominated([...frontier.points, ...points.values()]));
  const raced = { ...frontier, refined: [...points.values()] };
  const asked = new Set(measured.map((spec) => widthsFor(spec, raced)?.join()));
  const kept = [...points].filter(([{ mixture }, point]) =>
    alive.has(point) && asked.has(refinedWidths(mixture, sites).join())
  );
  const refined = kept.map(([{ mixture, store }]): RefinedMixture => {
    return { widths: refinedWidths(mixture, sites), store };
  });
  for (const [i, spec] of rest.entries()) {
    const widths = widthsFor(spec, frontier);
    if (!widths || refined.some((one) => one.widths.join() === widths.join())) continue;
    const store = await storeOf(widths), mixture = refinedConfig(widths, sites);
    const done = learned + i, all = learned + rest.length;
    const own = { ...input, mixture, store };
    await begin("refinement", widths, rest.filter((other) => widthsFor(other, frontier)?.join() === widths.join()));
    if (await refineMixture({ ...own, report: (progress) => report?.(done, all, progress) })) {
      refined.push({ widths, store });
    } else note?.(notRefined(spec));
  }
  return {
    frontier: kept.length > 0 ? { ...frontier, refined: kept.map(([, point]) => point) } : frontier,
    refined,
  };
}

const notRefined = ({ text }: MixedSpec): string =>
  `${text} is as all widths have learned: what it learned on its own diverged`;
