/**
 * Mixtures predicted by a rehearsal, for the calibration to learn with: a short calibration of single widths, what each site then
 * costs alone, and the knapsack of these losses. They are not what a budget gets in the end (search.ts finds that), but of that kind:
 * which sites need more bits than others is settled early. Before anything is learned it is not yet: at 2 and 3 bits losses of sites
 * then differ by twice as much as they will, and mixtures of 3 bits come out worse than 3 bits everywhere (docs/quality.md). Nothing is
 * lost by it: the calibration goes on from what the rehearsal has learned, for the epochs that are left.
 */
import { calibrate, type CalibrationInput } from "../calibrate/calibrate.ts";
import type { MixtureOfBits } from "../calibrate/draw.ts";
import type { CalibrationSettings } from "../calibrate/settings.ts";
import type { BitConfig } from "../../ir/sites.ts";
import type { MeasureInput } from "./bench.ts";
import { type Frontier, lookUp } from "./frontier.ts";
import { allocationItems, measureSensitivities } from "./sensitivity.ts";
import { tiedFrontier, type TiedOptions } from "./ties.ts";

/** A rehearsal has this part of the epochs, but one at least. */
const PART = 1 / 8;

/** Whether there are mixtures to draw, and epochs for both parts. */
export const isRehearsed = ({ mixtures, epochs }: CalibrationSettings): boolean => mixtures > 0 && epochs > 1;

/** The settings of a rehearsal of single widths, and those of the calibration behind it: together as many epochs. */
export function rehearsalSettings(settings: CalibrationSettings): readonly [CalibrationSettings, CalibrationSettings] {
  const first = Math.max(1, Math.round(settings.epochs * PART));
  return [{ ...settings, epochs: first, mixtures: 0 }, { ...settings, epochs: settings.epochs - first }];
}

/** What is rehearsed: a calibration, with the settings of `rehearsalSettings` and a store of its own. */
export interface RehearsalInput extends Omit<CalibrationInput, "mixtureOf" | "begun"> {
  /** Hears of the measuring behind it. */
  readonly measured?: MeasureInput["report"];
}

/** Rehearses, and predicts the best mixture of every budget: the knapsack's. */
export async function predictMixtures(
  { measured, ...input }: RehearsalInput,
  request: TiedOptions = {},
): Promise<Frontier> {
  const load = await calibrate(input), { report: _, ...common } = input, { elastic, settings } = input;
  const tokens = settings.measureTokens;
  const sensitivities = await measureSensitivities({
    ...common,
    load,
    tokens,
    ...(measured ? { report: measured } : {}),
  });
  return tiedFrontier(allocationItems(elastic, sensitivities), request);
}

/** A frontier's mixtures as widths by site; those of the least budget for lower ones. */
export const mixturesOf = (frontier: Frontier): MixtureOfBits => (bits): BitConfig => {
  const { sites, points } = frontier, digits = (lookUp(frontier, bits) ?? points[0])?.widths ?? "";
  return Object.fromEntries(sites.map((site, i) => [site, Number(digits[i])]));
};
