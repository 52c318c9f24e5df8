/**
 * @file A checkpoint as a source of sessions and evaluation, without anything learned: 16 bits are full precision, other
 * widths round the weights to nearest. Held values are computed from the checkpoint whenever a call needs them.
 */
import type { Tensor } from "../backends/backend.ts";
import type { Runner } from "../backends/runner.ts";
import type { Checkpoint } from "../compiler/frontends/checkpoint.ts";
import { contextLimit, decoderModule } from "../compiler/frontends/decoder.ts";
import { decoderSource } from "../compiler/frontends/decoder_source.ts";
import { modelSites } from "../compiler/model_sites.ts";
import { prepareGraph } from "../compiler/passes/stage.ts";
import type { Recipe } from "../compiler/recipe.ts";
import { OPEN_CLIP, roundToNearestModule, roundToNearestScheme } from "../compiler/round_to_nearest.ts";
import { type Call, functionOf, type Module } from "../ir/module.ts";
import { type Graph, graphOf, leavesOf, nameOf } from "../ir/node.ts";
import { WIDTHS } from "../ir/sites.ts";
import { concreteShape, sizeOf, type TensorType } from "../ir/types.ts";
import { type ElasticSource, freeTensors } from "./elastic_source.ts";

/** A model whose parameters are at hand, and how it is quantized. */
export interface PreparedModel {
  readonly name: string;
  /** As the front-end made it. */
  readonly module: Module;
  /** Which passes and which grids; ranks and master are passed over. */
  readonly recipe: Recipe;
  readonly contextLimit: number;
  /** Values of a parameter by its global name; derived ones are not asked for. */
  readonly parameter: (name: string, type: TensorType) => Promise<Float32Array>;
}

/** A source over an open checkpoint. */
export function checkpointSource(checkpoint: Checkpoint, runner: Runner, recipe: Recipe): ElasticSource {
  const { config, name } = checkpoint, tensorName = decoderSource(config);
  return preparedSource(runner, {
    name,
    module: decoderModule(config),
    recipe,
    contextLimit: contextLimit(config),
    parameter: async (parameter, { shape }) =>
      (await checkpoint.tensor(tensorName(parameter), concreteShape(shape))).data,
  });
}

/** A source over any model with parameters. */
export function preparedSource(runner: Runner, model: PreparedModel): ElasticSource {
  const module = roundToNearestModule(model.module, model.recipe), { backend } = runner;
  const graphs = new Map<string, Graph>();

  /** The part of a call's prepare program that computes these holds; one graph per function and set of names. */
  const prepareOf = (call: Call, names: readonly string[]): Graph => {
    const key = JSON.stringify([call.function, names]);
    const found = graphs.get(key) ??
      graphOf(prepareGraph(functionOf(module, call)).outputs.filter(({ name }) => names.includes(name)));
    graphs.set(key, found);
    return found;
  };

  const prepare = async (call: Call, names: readonly string[]) => {
    const graph = prepareOf(call, names), raw: Record<string, Tensor> = {};
    for (const node of leavesOf(graph, "param")) {
      const name = call.prefix + nameOf(node), derived = module.derived[name];
      raw[nameOf(node)] = backend.upload(
        node.type,
        derived ? derived.generate() : await model.parameter(name, node.type),
      );
    }
    const held = await runner.call(graph, {}, raw);
    free(call, raw);
    return held;
  };

  const free = freeTensors(runner);
  return {
    name: model.name,
    runner,
    module,
    scheme: roundToNearestScheme(model.recipe.scheme),
    sites: modelSites(module),
    widths: WIDTHS,
    contextLimit: model.contextLimit,
    preparation(call, names) {
      const held = names.filter((name) => !isClip(name));
      return held.length > 0 ? prepareOf(call, held) : undefined;
    },
    load: async (call, leaves) => {
      const held = [...leaves.keys()].filter((name) => !isClip(name));
      const open = [...leaves].filter(([name]) => isClip(name)).map(([name, type]) => {
        return [name, backend.upload(type, new Float32Array(sizeOf(type.shape)).fill(OPEN_CLIP))] as const;
      });
      return { ...Object.fromEntries(open), ...held.length > 0 ? await prepare(call, held) : {} };
    },
    release: free,
  };
}

/** Whether it is a clip, of which no checkpoint knows. */
const isClip = (name: string): boolean => /\.clip\.(high|low)\.\d$/.test(name);
