/**
 * One mixture, learned on its own. What all widths learn together is a compromise, and a mixture feeds its sites inputs that no width
 * alone does. So the mixtures that are asked for learn once more at the end, each from what its sites' widths have learned, on what
 * its own quantized blocks put out, with clips and adapters of its own that nothing else uses.
 */
import { type BitConfig, eachWidth, WIDTHS } from "../../ir/sites.ts";
import { calibrate, type CalibrationInput, DivergedError } from "./calibrate.ts";
import type { CalibrationSettings } from "./settings.ts";
import type { CallStore } from "./store.ts";

/** What is learned starts near its end: half the rate disturbs it less, and gets as far (docs/quality.md). */
const RATE = 0.5;

/** A calibration that is over, and what one of its mixtures learns. */
export interface RefineInput extends Omit<CalibrationInput, "mixtureOf" | "begun" | "only"> {
  /** The calibration; `store` gets what the mixture learns. */
  readonly begun: CallStore;
  /** Widths of weights and of activations that are quantized. */
  readonly mixture: BitConfig;
}

/** The settings of such a calibration: a single group of widths that takes part in every step. */
const refineSettings = (settings: CalibrationSettings): CalibrationSettings => ({
  ...settings,
  epochs: Math.max(1, Math.round(settings.epochs * settings.refine)),
  clipRate: settings.clipRate * RATE,
  adapterRate: settings.adapterRate * RATE,
  inputs: "tracks",
  mixtures: 0,
  balance: false,
  every: eachWidth(() => 1),
});

/**
 * Learns a mixture and leaves its clips and adapters in the store, those of every call under their global names.
 *
 * @returns false if it diverged: what all widths have learned serves it then
 */
export async function refineMixture({ mixture, recipe, settings, ...input }: RefineInput): Promise<boolean> {
  const widths = new Set(Object.values(mixture)), used = WIDTHS.filter((width) => widths.has(width));
  try {
    await calibrate({
      ...input,
      recipe: { ...recipe, bitGroups: [used] },
      settings: refineSettings(settings),
      only: mixture,
    });
    return true;
  } catch (error) {
    if (error instanceof DivergedError) return false;
    throw error;
  }
}
