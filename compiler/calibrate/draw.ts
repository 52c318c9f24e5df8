/**
 * Which widths a step runs at. A bit group gives one width for the whole block, as published. Learned so, every weight undoes errors
 * that its neighbours make at that same width; a mixture makes others. So a part of the steps draws a mixture, one of those that
 * budgets near the width are going to get (allocate/predict.ts), as far as one program serves all of its widths (equal ranks and group
 * sizes). Random mixtures cost the uniform widths more and help less: docs/quality.md.
 */
import type { Random } from "../../ir/random.ts";
import { type BitConfig, FULL_WIDTH, LEAST_WIDTHS, type LocalWidths, type Site, WIDTHS } from "../../ir/sites.ts";
import type { Width } from "../../ir/types.ts";
import type { Recipe } from "../recipe.ts";
import type { CalibrationSettings } from "./settings.ts";

/** The mixture that is best, as far as is known, for so many mean bits: widths by global site name. */
export type MixtureOfBits = (bits: number) => BitConfig;

/** Mixtures have so many mean bits more than the width that was drawn. As many as it compete with it, and come more often. */
const MORE_BITS = [-0.5, -0.25, 0, 0, 0, 0.25, 0.5] as const;

/** Errors of finer grids are small and add up: mixtures in a few draws cost them a tenth, and are as good without. */
const WIDEST_MIXED = 4;

/** What is drawn from. */
export interface Draw {
  /** The bit group. */
  readonly widths: readonly Width[];
  /** Sites of the block. */
  readonly sites: readonly Site[];
  readonly recipe: Recipe;
  /** All sites at one width. */
  readonly uniform: (width: Width) => LocalWidths;
  /** Part of the draws that are mixtures, and where they come from, by local site name; none without it. */
  readonly mixtures: number;
  readonly mixtureOf?: (bits: number) => LocalWidths;
  /** Part of the draws of track `both` without quantized activations. */
  readonly weightOnly: number;
}

/**
 * Whether a bit group takes part in the step of batch `batch` in epoch `epoch`: one of several widths only in some, shifted by one per
 * epoch, so that it sees all batches.
 */
export const takesPart = (
  widths: readonly Width[],
  { batch, epoch, every }: {
    readonly batch: number;
    readonly epoch: number;
    readonly every: CalibrationSettings["every"];
  },
): boolean => widths.length === 1 || (batch + epoch) % every[Math.min(...widths) as Width] === 0;

/** Widths of all sites for one step. */
export function drawWidths(draw: Draw, rng: Random): LocalWidths {
  const { widths, sites, recipe, uniform, mixtures, mixtureOf } = draw;
  const width = widths[rng.int(widths.length)] as Width, same = drawActivations(draw, uniform(width), rng);
  // Draws of recipes without mixtures take nothing else from the generator.
  if (!mixtureOf || mixtures === 0 || width > WIDEST_MIXED || rng.uniform() >= mixtures) return same;
  const wanted = mixtureOf(width + (MORE_BITS[rng.int(MORE_BITS.length)] ?? 0));
  const mixed: Record<string, number> = { ...same };
  for (const { name, role } of sites) {
    const own = wanted[name];
    if (role === "weight" && same[name] !== undefined && own !== undefined) {
      mixed[name] = nearestLike(recipe, width, own);
    }
  }
  return mixed;
}

/** The width nearest to the wanted one, on the way from the drawn one, that has train programs in common with it. */
function nearestLike(recipe: Recipe, width: Width, wanted: number): Width {
  const between = WIDTHS.filter((other) =>
    (other - width) * (wanted - width) >= 0 && Math.abs(other - width) <= Math.abs(wanted - width)
  );
  const like = between.filter((other) => isLike(recipe, width, other));
  return like.reduce((best, other) => Math.abs(other - wanted) < Math.abs(best - wanted) ? other : best, width);
}

/**
 * The activations of track `both`, so that one calibration serves weights alone and any pair of widths: in full precision, at the
 * weights' width, or at any other. Other tracks draw nothing here.
 */
function drawActivations({ sites, recipe, weightOnly }: Draw, same: LocalWidths, rng: Random): LocalWidths {
  if (recipe.track !== "both") return same;
  const part = rng.uniform(), known = WIDTHS.filter((width) => width >= LEAST_WIDTHS.activation);
  const other = part < weightOnly ? FULL_WIDTH : known[rng.int(known.length)] as Width;
  if (part >= (1 + weightOnly) / 2) return same;
  const drawn = sites.filter(({ name, role }) => role === "activation" && same[name] !== undefined);
  return { ...same, ...Object.fromEntries(drawn.map(({ name }) => [name, other])) };
}

/** Whether two calibrated widths have train programs in common. */
function isLike({ scheme: { adapters: { uses }, groupSizes }, bitGroups }: Recipe, a: Width, b: Width): boolean {
  return bitGroups.flat().includes(b) && uses[a].rank === uses[b].rank && uses[a].kept === uses[b].kept &&
    groupSizes[a] === groupSizes[b];
}
