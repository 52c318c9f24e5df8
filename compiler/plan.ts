/** @file Plans: the recipe of an elastic module together with the settings of its calibration, by name and with changes. */
import { type CalibrationSettings, defaultSettings, publishedSettings } from "./calibrate/settings.ts";
import { defaultRecipe, publishedRecipe, type Recipe, type RecipeName, type Track } from "./recipe.ts";

/** Everything that decides what a compilation learns. */
export interface Plan {
  readonly recipe: Recipe;
  readonly settings: CalibrationSettings;
}

/** What a plan is made for. */
export interface PlanInput {
  readonly name: RecipeName;
  readonly track: Track;
  readonly seed: number;
  /** Width of the residual stream. */
  readonly width: number;
}

/** The plan of a name. */
export function planOf({ name, track, seed, width }: PlanInput): Plan {
  return name === "quept"
    ? { recipe: publishedRecipe(track, seed, width), settings: publishedSettings(track) }
    : { recipe: defaultRecipe(track, seed), settings: defaultSettings(track) };
}
