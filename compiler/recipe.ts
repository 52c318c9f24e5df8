/** Recipes: which passes make a module elastic, with the numbers they need. Plain data; one artifact has one recipe. */
import { eachWidth, type MasterKind, type MasterScheme, type QuantizationScheme } from "../ir/sites.ts";
import type { Width } from "../ir/types.ts";
import { adaptersOf, type RankSchedule } from "./adapters.ts";

/**
 * What a calibration serves: settings of weights alone, settings that quantize activations and the cache as well, or all of them
 * with one artifact.
 */
export const TRACKS = ["weights", "activations", "both"] as const;

/** The track a recipe belongs to; see `TRACKS`. */
export type Track = typeof TRACKS[number];

/** The published method, or the one that measures best. */
export const RECIPE_NAMES = ["vernier", "quept"] as const;

/** See `RECIPE_NAMES`. */
export type RecipeName = typeof RECIPE_NAMES[number];

/** Everything the structure of an elastic module depends on. */
export interface Recipe {
  readonly track: Track;
  /** Rotate the residual stream, heads and the input of down projections (quept-method 6). */
  readonly rotate: boolean;
  /** Scale the columns of linears by what calibration finds (AWQ). */
  readonly scaleColumns: boolean;
  /** Put quantizers on the inputs of linears. */
  readonly activations: boolean;
  /** Put quantizers (and the Hadamard transform in front of keys) on the cache. */
  readonly cache: boolean;
  /** Seed of the rotations' signs. */
  readonly seed: number;
  readonly scheme: QuantizationScheme;
  /** Widths that share a draw per step, and the inputs that a block sees, highest first. */
  readonly bitGroups: readonly (readonly Width[])[];
}

/**
 * Ranks of independent adapters. Columns of their own serve low widths better than longer prefixes of common ones: stories260K
 * reaches 4.86 at 3 bits with 16 columns per width, 5.30 with 48 of 64 in a cascade. The low widths gain from more (2 bits: 14.3
 * with 16, 11.4 with 32; divergence at 4 bits 0.056 and 0.049); 5 bits and more do not.
 */
const INDEPENDENT_RANKS = { 2: 32, 3: 32, 4: 32, 5: 16, 6: 16, 7: 16, 8: 16 } as const satisfies RankSchedule;

/** The recipe of a track with the defaults that measurement chose. */
export function defaultRecipe(track: Track, seed: number): Recipe {
  return {
    ...commonRecipe(track, seed),
    scaleColumns: true,
    scheme: {
      ...COMMON_SCHEME,
      adapterSpace: "rounding",
      // At four bits the outer tenth is worth less than finer steps within: W4A4 of stories260K 4.39 instead of 4.47. Not from five up.
      activationClip: { ...COMMON_SCHEME.activationClip, 4: 0.9 },
      adapters: adaptersOf("independent", INDEPENDENT_RANKS),
      master: masterOf("int10"),
    },
    // High widths share a draw: they need fewer steps than low ones, and a step costs one pass per group.
    bitGroups: BIT_GROUPS[track],
  };
}

/** The more groups the more values between blocks are held; 7 and 8 bits gain by inputs of their own (docs/quality.md). */
const BIT_GROUPS: Readonly<Record<Track, Recipe["bitGroups"]>> = {
  weights: [[8, 7], [6, 5], [4], [3], [2]],
  activations: [[8, 7, 6, 5], [4]],
  both: [[8, 7, 6, 5], [4], [3], [2]],
};

/**
 * The published recipe of a track (quept-method 3.4, 4.2): the cascade with equally many columns for every bit group, 16 as in
 * the supplement. A narrow model has fewer, a sixteenth of its width for weights alone and an eighth with activations, since 16
 * columns per group would span a whole matrix of 64.
 *
 * @param width of the residual stream
 */
export function publishedRecipe(track: Exclude<Track, "both">, seed: number, width: number): Recipe {
  const activations = track === "activations";
  const perGroup = Math.max(1, Math.min(16, Math.floor(width / (activations ? 8 : 16))));
  const ranks = (groups: Readonly<Record<Width, number>>): RankSchedule =>
    Object.fromEntries(Object.entries(groups).map(([b, n]) => [b, n * perGroup])) as Record<Width, number>;
  return {
    ...commonRecipe(track, seed),
    scheme: {
      ...COMMON_SCHEME,
      adapters: adaptersOf(
        "cascaded",
        ranks(
          activations ? { 8: 1, 7: 1, 6: 2, 5: 2, 4: 3, 3: 3, 2: 3 } : { 8: 1, 7: 1, 6: 2, 5: 2, 4: 3, 3: 3, 2: 4 },
        ),
      ),
      master: masterOf("fp16"),
    },
    bitGroups: activations ? [[7, 8], [5, 6], [4]] : [[7, 8], [5, 6], [3, 4], [2]],
  };
}

/** A master with the usual number of columns per scale. */
export const masterOf = (kind: MasterKind): MasterScheme => kind === "fp16" ? { kind } : { kind, groupSize: 64 };

const commonRecipe = (track: Track, seed: number) => ({
  track,
  rotate: track !== "weights",
  scaleColumns: false,
  activations: track !== "weights",
  cache: track !== "weights",
  seed,
});

const COMMON_SCHEME = {
  adapterSpace: "weight",
  groupSizes: eachWidth(() => -1),
  // Published: 0.95, for heads of 128. Unclipped is better from 4 bits up: W8A8KV8 of stories260K 3.769 instead of 3.880.
  cacheClip: eachWidth(() => 1),
  activationClip: eachWidth(() => 1),
} as const;
