/** The parts of the method that are switched one at a time: what each run changes of the recipe. */

/** One run. */
export interface Variant {
  readonly name: string;
  /** Changes of the recipe, `NAME=VALUE`. */
  readonly changes: readonly string[];
}

/** What every run changes: mixtures are not refined, which costs more than all widths together, but where that is the part. */
export const COMMON = ["refine=0"] as const;

const each = (name: string, values: readonly string[], ...also: readonly string[]): readonly Variant[] =>
  values.map((value) => ({ name: `${name}=${value}`, changes: [...also, `${name}=${value}`] }));

/** Runs by part. `default` stands for the recipe as it is but for `COMMON`, which every part is compared with. */
export const PARTS: Readonly<Record<string, readonly Variant[]>> = {
  default: [{ name: "default", changes: [] }],
  adapters: each("adapters", ["cascaded", "protected", "shared", "off"]),
  space: each("adapter-space", ["weight", "scale"]),
  start: each("adapter-start", ["random"]),
  ranks: each("ranks", ["4", "8", "16", "32"]),
  merging: [
    ...each("merge", ["selective", "uniform", "random", "none"], "inputs=fused"),
    ...each("top", ["0", "0.25", "0.75", "1"], "inputs=fused", "merge=selective"),
  ],
  groups: each("groups", ["8,7/6,5/4,3/2", "8,7,6,5/4/3/2", "8/7/6/5/4/3/2"]),
  draws: [...each("mixtures", ["0", "0.6"]), ...each("every", ["1"])],
  refine: each("refine", ["0.75"]),
  loss: [...each("loss", ["2"]), ...each("logits", ["0", "4"])],
  optimiser: [
    ...each("average", ["0"]),
    ...each("rate-slope", ["0"], "adapter-space=weight"),
    ...each("balance", ["off"]),
  ],
  master: each("master", ["int8", "fp16"]),
  scaling: [...each("scale-columns", ["off"]), ...each("clip-search", ["off"]), {
    name: "neither",
    changes: ["scale-columns=off", "clip-search=off"],
  }],
  rotation: each("rotate", ["on", "off"]),
};
