/** A decoder of any size with pseudo-random weights that are made on the backend once, and stay there: nothing is uploaded. */
import type { Backend, Tensor } from "../../../backends/backend.ts";
import { createRunner, type Runner } from "../../../backends/runner.ts";
import type { DecoderConfig } from "../../../compiler/frontends/config.ts";
import { decoderModule } from "../../../compiler/frontends/decoder.ts";
import { modelSites } from "../../../compiler/model_sites.ts";
import { elasticModule } from "../../../compiler/pipeline.ts";
import { defaultRecipe, type Track } from "../../../compiler/recipe.ts";
import { createBuilder } from "../../../ir/builder.ts";
import { type Graph, graphOf } from "../../../ir/node.ts";
import { concreteShape, sizeOf, type TensorType, typeText } from "../../../ir/types.ts";
import type { ElasticSource } from "../../../runtime/elastic_source.ts";

/** The shape of LLaMA-2-7B. */
export const SEVEN_B: DecoderConfig = {
  modelType: "llama",
  vocabSize: 32000,
  hiddenSize: 4096,
  intermediateSize: 11008,
  layers: 32,
  heads: 32,
  kvHeads: 32,
  headDim: 128,
  rmsNormEps: 1e-5,
  maxPositions: 4096,
  tieEmbeddings: false,
  attentionBias: { qkv: false, output: false },
  mlpBias: false,
  slidingWindow: null,
  bosTokenId: 1,
  eosTokenIds: [2],
  ropeTheta: 10000,
  ropeScaling: null,
};

/** The shape of a LLaMA of 110 million parameters. */
export const HUNDRED_M: DecoderConfig = {
  ...SEVEN_B,
  hiddenSize: 768,
  intermediateSize: 2048,
  layers: 12,
  heads: 12,
  kvHeads: 12,
  headDim: 64,
  maxPositions: 1024,
  tieEmbeddings: true,
};

/** Values in (-1, 1)·`scale`, the same for the same type: a multiplicative hash of the index, in f32. */
function hashGraph(type: TensorType, scale: number): Graph {
  const b = createBuilder(), shape = concreteShape(type.shape), size = sizeOf(type.shape), last = shape.at(-1) ?? 1;
  const columns = b.cast(b.iota("i32", [1, last], 1), "f32"), rows = b.cast(b.iota("i32", [size / last, 1], 0), "f32");
  const x = b.add(b.mul(columns, 0.7548776662), b.mul(rows, 0.5698402910));
  const fraction = b.sub(x, b.floor(x)), value = b.mul(b.sub(b.mul(fraction, 2), 1), scale);
  const isInteger = type.dtype.startsWith("i") || type.dtype.startsWith("u");
  return graphOf({ value: b.reshape(b.cast(isInteger ? b.round(value) : value, type.dtype), shape) });
}

/** Values of tensors that are not random: scales must be positive and ranges hold zero, norms are near one. */
const CONSTANTS: readonly (readonly [RegExp, number])[] = [
  [/scales$/, 2 ** -12],
  [/norm|clip/, 1],
  [/range\..*\.low$/, -100 * 2 ** -12],
  [/range\..*\.high$/, 100 * 2 ** -12],
];

/** The random model as an elastic source. */
export function randomSource(backend: Backend, config: DecoderConfig, track: Track): ElasticSource {
  const recipe = defaultRecipe(track, 0), module = elasticModule(decoderModule(config), recipe);
  const runner: Runner = createRunner(backend), graphs = new Map<string, Graph>(), made = new Map<string, Tensor>();
  const fill = async (name: string, type: TensorType): Promise<Tensor> => {
    const constant = CONSTANTS.find(([pattern]) => pattern.test(name))?.[1];
    if (constant !== undefined) return backend.upload(type, new Float32Array(sizeOf(type.shape)).fill(constant));
    const scale = /codes$/.test(name) ? 100 : 0.02, key = `${typeText(type)} ${scale}`;
    const graph = graphs.get(key) ?? hashGraph(type, scale);
    graphs.set(key, graph);
    return (await runner.call(graph, {}, {})).value as Tensor;
  };
  return {
    name: "a model of random weights",
    runner,
    module,
    scheme: recipe.scheme,
    sites: modelSites(module),
    widths: recipe.bitGroups.flat(),
    contextLimit: config.maxPositions,
    load: async ({ prefix }, leaves) => {
      const found: Record<string, Tensor> = {};
      for (const [name, type] of leaves) {
        const tensor = made.get(prefix + name) ?? await fill(name, type);
        made.set(prefix + name, tensor);
        found[name] = tensor;
      }
      return found;
    },
    release: () => {},
  };
}
