/** @file A checkpoint's module with quantizers but without anything learned: the baseline that calibration is measured against. */
import type { Module } from "../ir/module.ts";
import { eachWidth, type QuantizationScheme } from "../ir/sites.ts";
import { adaptersOf } from "./adapters.ts";
import { type RunOptions, runPasses } from "./passes/pass.ts";
import { quantizePasses, structureModule } from "./pipeline.ts";
import type { Recipe } from "./recipe.ts";

/** A clip logit whose sigmoid is 1 in single precision: the whole range. */
export const OPEN_CLIP = 32;

/** The scheme of `roundToNearestModule`: that of a recipe, without adapters. */
export const roundToNearestScheme = (scheme: QuantizationScheme): QuantizationScheme => ({
  ...scheme,
  adapters: adaptersOf("off", eachWidth(() => 0)),
});

/**
 * The elastic module without scaled columns, stored tables, master and adapters: at 16 bits it is the model in full precision, and its weight
 * grids round the original weights to nearest. Of learned parameters it has the clip logits alone.
 */
export function roundToNearestModule(module: Module, recipe: Recipe, options?: RunOptions): Module {
  // Weights are held in front of their sites, where the elastic module has its master.
  const exact = structureModule(module, { ...recipe, scaleColumns: false }, options),
    learned = ["insert_tables", "insert_master", "insert_adapters"];
  return runPasses(exact, quantizePasses(recipe).filter(({ name }) => !learned.includes(name)), options);
}
