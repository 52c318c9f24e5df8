/** Settings of a calibration. The paper's constants are for 7B models; each default here names what chose it. */
import type { Width } from "../../ir/types.ts";
import type { Track } from "../recipe.ts";

/** How a block's quantized outputs become the inputs of the next (MB-ToMe, quept-method 5). */
export type MergeKind = "selective" | "uniform" | "random" | "none";

/** Numbers that steer a calibration; none of them changes the structure of the artifact. */
export interface CalibrationSettings {
  /** At most so many calibration sequences, each cut to so many tokens. */
  readonly sequences: number;
  readonly tokens: number;
  /** Sequences per optimiser step. */
  readonly batch: number;
  readonly epochs: number;
  /** Initial learning rates of clip logits and adapters; both fall along a cosine to a hundredth (8.2). */
  readonly clipRate: number;
  readonly adapterRate: number;
  /** Clip logits before training: σ(4) = 0.982 is the published start, σ(9) leaves the range as it is. */
  readonly clipStart: Readonly<Record<Width, number>>;
  /** p of the reconstruction loss Σ|P - Y|^p. */
  readonly lossPower: 1 | 2;
  /** `fused`: all bit groups share merged inputs, as published; `tracks`: each group carries its own from block to block. */
  readonly inputs: "fused" | "tracks";
  /** Divide each group's loss by its own loss before training, so that low widths do not drown the others. */
  readonly balance: boolean;
  readonly merge: {
    readonly kind: MergeKind;
    /** Part of the tokens, those most alike at lowest and highest width, that keep their highest-width value. */
    readonly top: number;
    /** Weight of each bit group in the average, in the order of the recipe's groups (highest widths first). */
    readonly weights: readonly number[];
  };
}

/**
 * The defaults of a track, from the measurements in ARCHITECTURE.md: each bit group carries its own inputs and its losses are
 * balanced; at 5 bits and more the range starts unclipped.
 */
export function defaultSettings(track: Track): CalibrationSettings {
  return {
    sequences: 128,
    tokens: 256,
    batch: 2,
    epochs: 8,
    clipRate: 0.05,
    adapterRate: 1e-3,
    clipStart: { 2: 4, 3: 4, 4: 4, 5: 9, 6: 9, 7: 9, 8: 9 },
    lossPower: 1,
    inputs: "tracks",
    balance: true,
    merge: {
      kind: "selective",
      top: 0.5,
      weights: track === "activations" ? [0.3, 0.3, 0.4] : [0.2, 0.2, 0.2, 0.2, 0.2],
    },
  };
}
