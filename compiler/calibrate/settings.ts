/** Settings of a calibration. The paper's constants are for 7B models; each default here names what chose it. */
import { quote, UserError } from "../../ir/errors.ts";
import { eachWidth } from "../../ir/sites.ts";
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
  /**
   * Initial learning rates of clip logits and of adapters in weight space; both fall along a cosine to a hundredth (8.2). Adapters in
   * other spaces count steps of the grid, numbers around 1 instead of around 0.1, and have ten times the rate.
   */
  readonly clipRate: number;
  readonly adapterRate: number;
  /**
   * How fast the rate of an adapter in weight space falls with the narrowest width b > 4 that uses it: by 2^(-slope·(b - 4)). A step
   * of Adam is as long at 8 bits as at 4, but the grid there is 16 times finer; 0: one rate for all, as published.
   */
  readonly rateSlope: number;
  /** The learned values are the mean over this last part of the steps; 0: those of the last step, as published. */
  readonly average: number;
  /** Clip logits before training: σ(4) = 0.982 is the published start, σ(9) leaves the range as it is. */
  readonly clipStart: Readonly<Record<Width, number>>;
  /** Where the A of adapters starts: `inputs`, at what its inputs vary in most, see input_bases.ts; `random`, as published. */
  readonly adapterStart: "inputs" | "random";
  /** p of the reconstruction loss Σ|P - Y|^p. */
  readonly lossPower: 1 | 2;
  /**
   * The last block learns by the divergence of the logits behind it, too, with so many times the weight that its outputs have; 0: by
   * its outputs alone, as published.
   */
  readonly logits: number;
  /** `fused`: all bit groups share merged inputs, as published; `tracks`: each group carries its own from block to block. */
  readonly inputs: "fused" | "tracks";
  /** Part of the steps whose sites take mixed widths; see draw.ts. 0, or a single epoch: one width per step, as published. */
  readonly mixtures: number;
  /** Every mixture that is asked for learns alone for this part of the epochs, once all widths have learned; 0: none, as published. */
  readonly refine: number;
  /** A bit group of several widths takes part in one of so many steps, by its narrowest: fine grids need few; 1: in all, as published. */
  readonly every: Readonly<Record<Width, number>>;
  /**
   * Part of the draws of track `both` that leave activations in full precision; half of the others quantize them at the weights'
   * width and half at any from 4 to 8. Other tracks take no notice.
   */
  readonly weightOnly: number;
  /** Search where clips start (AWQ), row by row, instead of starting at `clipStart`. */
  readonly clipSearch: boolean;
  /** Divide each group's loss by its own loss before training, so that low widths do not drown the others. */
  readonly balance: boolean;
  /** Calibration tokens that sensitivities and mixtures are measured on. */
  readonly measureTokens: number;
  readonly merge: {
    readonly kind: MergeKind;
    /** Part of the tokens, those most alike at lowest and highest width, that keep their highest-width value. */
    readonly top: number;
    /** Weight of each bit group in the average, in the order of the recipe's groups (highest widths first). */
    readonly weights: readonly number[];
  };
}

/** The range of a number. */
interface Limit {
  readonly least: number;
  readonly most?: number;
  readonly whole?: true;
}

const COUNT: Limit = { least: 1, whole: true }, PART: Limit = { least: 0, most: 1 };

/** What numbers of the settings may be. */
const LIMITS: Readonly<Partial<Record<keyof CalibrationSettings, Limit>>> = {
  sequences: COUNT,
  tokens: { least: 2, whole: true },
  batch: COUNT,
  epochs: { least: 0, whole: true },
  clipRate: { least: 0 },
  adapterRate: { least: 0 },
  rateSlope: { least: 0 },
  average: PART,
  logits: { least: 0 },
  mixtures: PART,
  refine: { least: 0 },
  weightOnly: PART,
  measureTokens: COUNT,
};

/**
 * Refuses settings that a calibration cannot have.
 *
 * @throws {UserError} naming the first
 */
export function checkCalibrationSettings(settings: CalibrationSettings): void {
  const every = Object.entries(settings.every).map(([width, value]) => [`every.${width}`, COUNT, value] as const);
  const others = Object.entries(LIMITS).map(([name, limit]) =>
    [name, limit, settings[name as keyof CalibrationSettings]] as const
  );
  for (const [name, { least, most = Infinity, whole }, value] of [...others, ...every]) {
    const fits = typeof value === "number" && Number.isFinite(value) && value >= least && value <= most &&
      (!whole || Number.isInteger(value));
    if (fits) continue;
    const range = most === Infinity ? `of ${least} or more` : `from ${least} to ${most}`;
    throw new UserError({
      what: `Expected a ${whole ? "whole " : ""}number ${range} but found ${quote(value)}`,
      where: `the setting ${quote(name)}`,
    });
  }
}

/**
 * The settings of the published method on a small model: those of the measurements that `--recipe quept` is compared to
 * (quept-method 8.2 has the learning rates of 7B models). Weights of the merge are those of quept-method 5.2.
 */
export function publishedSettings(track: Exclude<Track, "both">): CalibrationSettings {
  const activations = track === "activations";
  return {
    sequences: 128,
    tokens: 128,
    batch: 2,
    epochs: 15,
    clipRate: activations ? 0.05 : 0.1,
    adapterRate: activations ? 3e-4 : 7e-4,
    rateSlope: 0,
    average: 0,
    clipStart: { 2: 4, 3: 4, 4: 4, 5: 4, 6: 4, 7: 4, 8: 4 },
    clipSearch: false,
    adapterStart: "random",
    lossPower: 1,
    logits: 0,
    inputs: "fused",
    mixtures: 0,
    refine: 0,
    every: eachWidth(() => 1),
    weightOnly: 0,
    balance: false,
    measureTokens: 2048,
    merge: { kind: "selective", top: 0.5, weights: activations ? [0.3, 0.3, 0.4] : [0.25, 0.25, 0.25, 0.25] },
  };
}

/** Equal for bit groups of weights alone. */
const MERGE_WEIGHTS: Readonly<Record<Track, readonly number[]>> = {
  weights: [0.2, 0.2, 0.2, 0.2, 0.2],
  activations: [0.6, 0.4],
  both: [0.25, 0.25, 0.25, 0.25],
};

/**
 * The defaults of a track, from the measurements in ARCHITECTURE.md: each bit group carries its own inputs and its losses are
 * balanced; at 5 bits and more the range starts unclipped; fine grids learn slowly; the noise of the last steps is averaged out.
 */
export function defaultSettings(track: Track): CalibrationSettings {
  return {
    sequences: 128,
    tokens: 256,
    batch: 2,
    epochs: 8,
    clipRate: 0.05,
    adapterRate: 1e-3,
    rateSlope: 1.5,
    average: 1 / 3,
    clipStart: { 2: 4, 3: 4, 4: 4, 5: 9, 6: 9, 7: 9, 8: 9 },
    // Beside quantized activations alone it gains nothing: docs/quality.md.
    clipSearch: track !== "activations",
    adapterStart: "inputs",
    lossPower: 1,
    logits: 1,
    inputs: "tracks",
    // Widths of quantized activations have few mixtures, and a rehearsal of theirs costs W4A4 a tenth of its divergence.
    mixtures: track === "activations" ? 0 : 0.3,
    refine: 0.75,
    // As many steps as one for all four in every third (docs/quality.md); in every step 5 to 8 bits would gain little for much time.
    every: { ...eachWidth(() => 1), ...(track === "weights" ? { 5: 4, 7: 12 } : {}) },
    weightOnly: 0.5,
    balance: true,
    measureTokens: 2048,
    // For inputs that are fused after all.
    merge: { kind: "selective", top: 0.5, weights: MERGE_WEIGHTS[track] },
  };
}
