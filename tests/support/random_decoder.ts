/** Random tiny decoders in every variant of the family: what passes must not change the logits of. */
import type { DecoderConfig } from "../../compiler/frontends/config.ts";
import { random } from "../../ir/random.ts";
import { sizeOf } from "../../ir/types.ts";
import type { Load } from "./run_module.ts";

const BASE: DecoderConfig = {
  modelType: "llama",
  vocabSize: 17,
  hiddenSize: 16,
  intermediateSize: 24,
  layers: 2,
  heads: 4,
  kvHeads: 2,
  headDim: 4,
  ropeTheta: 10000,
  ropeScaling: null,
  rmsNormEps: 1e-5,
  maxPositions: 32,
  tieEmbeddings: true,
  attentionBias: { qkv: false, output: false },
  mlpBias: false,
  slidingWindow: null,
  bosTokenId: 1,
  eosTokenIds: [2],
};

/**
 * The variants by name. Sizes such as 20 and 24 = 12·2, whose transforms are not symmetric, betray a missing transpose; a
 * width of 18 has no transform at all.
 */
export const VARIANTS = {
  "tied, grouped queries": BASE,
  "untied, heads of 8": { ...BASE, tieEmbeddings: false, headDim: 8 },
  "all biases, width 20": {
    ...BASE,
    hiddenSize: 20,
    intermediateSize: 20,
    tieEmbeddings: false,
    attentionBias: { qkv: true, output: true },
    mlpBias: true,
  },
  "q, k and v biases, one layer, heads of 12": {
    ...BASE,
    modelType: "qwen2",
    layers: 1,
    kvHeads: 4,
    headDim: 12,
    attentionBias: { qkv: true, output: false },
  },
  "a window of 5 tokens": { ...BASE, modelType: "mistral", slidingWindow: 5 },
  "no transforms of these widths": { ...BASE, hiddenSize: 18, intermediateSize: 22, headDim: 6 },
} satisfies Record<string, DecoderConfig>;

/** Random parameters of any name: gains around one, everything else of a size that keeps activations near one. */
export function randomParameters(seed: number): Load {
  return (name, type) => {
    const stream = random(seed, name), size = sizeOf(type.shape), fan = Number(type.shape.at(-1));
    const isGain = name.endsWith("norm.weight"), isScale = name.endsWith(".input.scale");
    return Promise.resolve(Float64Array.from({ length: size }, () => {
      const value = stream.normal();
      if (isScale) return Math.fround(Math.exp(value));
      return Math.fround(
        isGain ? 1 + 0.3 * value : type.shape.length === 1 ? 0.3 * value : value * 1.5 / Math.sqrt(fan),
      );
    }));
  };
}
