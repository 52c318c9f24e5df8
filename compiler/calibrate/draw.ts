/**
 * Which widths a step runs at. A bit group gives one width for the whole block, as published. Learned so, every weight undoes errors
 * that its neighbours make at that same width; a mixture makes others. So a part of the steps draws a mixture: some sites take the
 * next width up or down, as far as one program serves both (equal ranks and group sizes).
 */
import type { Random } from "../../ir/random.ts";
import { type LocalWidths, type Site, WIDTHS } from "../../ir/sites.ts";
import type { Width } from "../../ir/types.ts";
import type { Recipe } from "../recipe.ts";

/** What is drawn from. */
export interface Draw {
  /** The bit group. */
  readonly widths: readonly Width[];
  /** Sites of the block. */
  readonly sites: readonly Site[];
  readonly recipe: Recipe;
  /** All sites at one width. */
  readonly uniform: (width: Width) => LocalWidths;
  /** Part of the draws that are mixtures. */
  readonly mixtures: number;
}

/**
 * Whether a bit group takes part in the step of batch `batch` in epoch `epoch`: one of several widths only in every `sharedEvery`th,
 * shifted by one per epoch, so that all batches are seen equally often.
 */
export const takesPart = (
  widths: readonly Width[],
  { batch, epoch, sharedEvery }: { readonly batch: number; readonly epoch: number; readonly sharedEvery: number },
): boolean => widths.length === 1 || (batch + epoch) % sharedEvery === 0;

/** Widths of all sites for one step. */
export function drawWidths({ widths, sites, recipe, uniform, mixtures }: Draw, rng: Random): LocalWidths {
  const width = widths[rng.int(widths.length)] as Width, same = uniform(width);
  // Draws of recipes without mixtures take nothing else from the generator.
  if (mixtures === 0 || rng.uniform() >= mixtures) return same;
  const near = WIDTHS.filter((other) => Math.abs(other - width) <= 1 && isLike(recipe, width, other));
  const mixed: Record<string, number> = { ...same };
  for (const { name, role } of sites) {
    if (role === "weight" && same[name] !== undefined) mixed[name] = near[rng.int(near.length)] as Width;
  }
  return mixed;
}

/** Whether two calibrated widths have train programs in common. */
function isLike({ scheme: { adapters: { uses }, groupSizes }, bitGroups }: Recipe, a: Width, b: Width): boolean {
  return bitGroups.flat().includes(b) && uses[a].rank === uses[b].rank && groupSizes[a] === groupSizes[b];
}
