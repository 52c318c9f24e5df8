/** Recipes: which passes make a module elastic, with the numbers they need. Plain data; one artifact has one recipe. */
import type { QuantizationScheme } from "../ir/sites.ts";
import type { Width } from "../ir/types.ts";

/** The track a recipe belongs to. */
export type Track = "weights" | "activations";

/** Everything the structure of an elastic module depends on. */
export interface Recipe {
  readonly track: Track;
  /** Rotate the residual stream, heads and the input of down projections (quept-method 6). */
  readonly rotate: boolean;
  /** Put quantizers on the inputs of linears. */
  readonly activations: boolean;
  /** Put quantizers (and the Hadamard transform in front of keys) on the cache. */
  readonly cache: boolean;
  /** Seed of the rotations' signs. */
  readonly seed: number;
  readonly scheme: QuantizationScheme;
  /** Widths that share a draw per step, highest first (the cascade's order). */
  readonly bitGroups: readonly (readonly Width[])[];
}

/** Adapter ranks by width: the first group in the cascade has the shortest prefix. */
export type RankSchedule = Readonly<Partial<Record<Width, number>>>;

/** Ranks of the cascade {7,8} {5,6} {4} {3} {2}: measured best on the bundled model and on stories260K; see ARCHITECTURE.md. */
const RANKS = { 8: 16, 7: 16, 6: 32, 5: 32, 4: 48, 3: 48, 2: 64 } as const satisfies RankSchedule;

/** The recipe of a track with the defaults that measurement chose. */
export function defaultRecipe(track: Track, seed: number): Recipe {
  const activations = track === "activations";
  return {
    track,
    rotate: activations,
    activations,
    cache: activations,
    seed,
    scheme: {
      groupSizes: { 2: -1, 3: -1, 4: -1, 5: -1, 6: -1, 7: -1, 8: -1 },
      ranks: activations ? { ...RANKS, 4: 48, 3: 48, 2: 48 } : RANKS,
      rank: activations ? 48 : 64,
      master: { kind: "int8", groupSize: 64 },
      // Published: 0.95, for heads of 128. Unclipped is better from 4 bits up: W8A8KV8 of stories260K 3.769 instead of 3.880.
      cacheClip: 1,
      activationClip: 1,
    },
    bitGroups: activations ? [[7, 8], [5, 6], [4]] : [[7, 8], [5, 6], [4], [3], [2]],
  };
}
