/**
 * @file Refined mixtures: configurations of an artifact that have learned values of their own beside those that widths share. Which
 * ones these are is part of the description; which values a configuration takes follows from its widths, however it came about.
 */
import { type BitConfig, FULL_WIDTH } from "../../ir/sites.ts";
import type { ModelSite } from "../model_sites.ts";

/** The widths of `refinedSites`, in their order. */
export type RefinedWidths = readonly number[];

/** The sites that tell mixtures apart; whether the cache is quantized, too, makes no difference to what was learned. */
export const refinedSites = (sites: readonly ModelSite[]): readonly ModelSite[] =>
  sites.filter(({ role }) => role === "weight" || role === "activation");

/** A configuration as an artifact lists it. */
export const refinedWidths = (config: BitConfig, sites: readonly ModelSite[]): RefinedWidths =>
  refinedSites(sites).map(({ name }) => config[name] ?? FULL_WIDTH);

/** The configuration of listed widths. */
export const refinedConfig = (widths: RefinedWidths, sites: readonly ModelSite[]): BitConfig =>
  Object.fromEntries(refinedSites(sites).map(({ name }, i) => [name, widths[i] ?? FULL_WIDTH]));

/** The number of the refined mixture that a configuration is; undefined if it is none. */
export function refinedSet(
  config: BitConfig,
  sites: readonly ModelSite[],
  refined: readonly RefinedWidths[] = [],
): number | undefined {
  const wanted = refinedWidths(config, sites);
  const found = refined.findIndex((widths) => widths.every((width, i) => width === wanted[i]));
  return found < 0 ? undefined : found;
}

/** What a learned tensor is stored as: its global name, behind the number of the mixture if it belongs to one. */
export const learnedName = (name: string, set: number | undefined): string =>
  set === undefined ? name : `refined.${set}.${name}`;
