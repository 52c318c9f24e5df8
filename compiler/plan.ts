/** @file Plans: the recipe of an elastic module together with the settings of its calibration, by name and with changes. */
import { type CalibrationSettings, defaultSettings, publishedSettings } from "./calibrate/settings.ts";
import { UserError } from "../ir/errors.ts";
import { defaultRecipe, publishedRecipe, type Recipe, type RecipeName, type Track } from "./recipe.ts";

/** Everything that decides what a compilation learns. */
export interface Plan {
  readonly recipe: Recipe;
  readonly settings: CalibrationSettings;
  /** Whether `recipe.rotate` is still to be decided, by measuring both (runtime/choose_rotation.ts). */
  readonly chooseRotation: boolean;
}

/** What a plan is made for. */
export interface PlanInput {
  readonly name: RecipeName;
  readonly track: Track;
  readonly seed: number;
  /** Width of the residual stream. */
  readonly width: number;
}

/**
 * The plan of a name.
 *
 * @throws {UserError} for the published method with both tracks at once, which it does not know
 */
export function planOf({ name, track, seed, width }: PlanInput): Plan {
  if (name === "vernier") {
    const chosen = track === "weights";
    return { recipe: defaultRecipe(track, seed), settings: defaultSettings(track), chooseRotation: chosen };
  }
  if (track === "both") {
    throw new UserError({
      what: "Expected one track for the recipe quept, which calibrates weights alone and with activations apart",
      where: "--track",
      mend: "use weights or activations, or --recipe vernier",
    });
  }
  return { recipe: publishedRecipe(track, seed, width), settings: publishedSettings(track), chooseRotation: false };
}
