/** Artifacts of tiny random decoders: really prepared weights, and random values for what calibration would have learned. */
import { hostArray } from "../../backends/backend.ts";
import { openReference } from "../../backends/reference/backend.ts";
import { createRunner } from "../../backends/runner.ts";
import { adaptersOf } from "../../compiler/adapters.ts";
import { type Artifact, artifactBytes, type ArtifactTensor, openArtifact } from "../../compiler/artifact/artifact.ts";
import { storedTypes } from "../../compiler/artifact/contents.ts";
import type { Frontier } from "../../compiler/allocate/frontier.ts";
import type { ArtifactDescription } from "../../compiler/artifact/description.ts";
import type { RefinedWidths } from "../../compiler/artifact/refined.ts";
import type { DecoderConfig } from "../../compiler/frontends/config.ts";
import { decoderModule } from "../../compiler/frontends/decoder.ts";
import { type Folder, memoryFolder } from "../../compiler/frontends/source.ts";
import { modelSites } from "../../compiler/model_sites.ts";
import { prepareGraph } from "../../compiler/passes/stage.ts";
import { elasticModule } from "../../compiler/pipeline.ts";
import { defaultRecipe, type Recipe, type Track } from "../../compiler/recipe.ts";
import { functionOf } from "../../ir/module.ts";
import { eachWidth } from "../../ir/sites.ts";
import { leavesOf, nameOf } from "../../ir/node.ts";
import { random } from "../../ir/random.ts";
import { concreteShape, sizeOf } from "../../ir/types.ts";
import { randomParameters, VARIANTS } from "./random_decoder.ts";

/** The recipe of a track with ranks and groups that suit rows of 16 to 24 columns. */
export function tinyRecipe(track: Track): Recipe {
  const recipe = defaultRecipe(track, 3), groupSizes = { 2: 8, 3: 5, 4: -1, 5: -1, 6: 8, 7: 5, 8: -1 };
  const adapters = adaptersOf("cascaded", { 2: 4, 3: 3, 4: 3, 5: 2, 6: 2, 7: 1, 8: 0 });
  // Clipped caches, so that the clamp does something.
  const scheme = {
    ...recipe.scheme,
    groupSizes,
    adapters,
    master: { kind: "int10", groupSize: 12 },
    cacheClip: eachWidth(() => 0.9),
  } as const;
  return { ...recipe, scheme };
}

/** The `config.json` of a tiny decoder, as much of it as is read. */
export const configJson = (config: DecoderConfig): Readonly<Record<string, unknown>> => ({
  model_type: config.modelType,
  vocab_size: config.vocabSize,
  hidden_size: config.hiddenSize,
  intermediate_size: config.intermediateSize,
  num_hidden_layers: config.layers,
  num_attention_heads: config.heads,
  num_key_value_heads: config.kvHeads,
  head_dim: config.headDim,
  max_position_embeddings: config.maxPositions,
  tie_word_embeddings: config.tieEmbeddings,
  sliding_window: config.slidingWindow,
});

/** What `writeArtifact` is given for a tiny decoder. */
export async function tinyArtifactParts(
  track: Track,
  config: DecoderConfig = VARIANTS["tied, grouped queries"],
  seed = 7,
  recipe: Recipe = tinyRecipe(track),
  refined?: readonly RefinedWidths[],
): Promise<{ description: ArtifactDescription; tensors: readonly ArtifactTensor[] }> {
  const module = elasticModule(decoderModule(config), recipe),
    load = randomParameters(seed);
  const runner = createRunner(openReference()), { backend } = runner, tensors: ArtifactTensor[] = [];
  for (const call of module.calls) {
    const graph = prepareGraph(functionOf(module, call));
    const leaves = await Promise.all(
      leavesOf(graph, "param").map(async (node) => {
        const name = call.prefix + nameOf(node), derived = module.derived[name];
        const values = derived ? derived.generate() : Float32Array.from(await load(name, node.type));
        return [nameOf(node), backend.upload(node.type, values)] as const;
      }),
    );
    for (const [name, tensor] of Object.entries(await runner.call(graph, {}, Object.fromEntries(leaves)))) {
      const { dtype, shape } = tensor.type;
      tensors.push({
        name: call.prefix + name,
        dtype,
        shape: concreteShape(shape),
        values: () => backend.download(tensor),
      });
    }
  }
  const known = new Set(tensors.map(({ name }) => name));
  for (const [name, { dtype, shape }] of storedTypes(module, recipe, refined)) {
    if (known.has(name)) continue;
    const stream = random(seed, name);
    const value = name.includes(".clip.")
      ? () => 3 + stream.normal()
      : dtype === "f32"
      ? () => 0.003 * (1 + stream.uniform())
      : () => stream.int(128);
    const values = hostArray(dtype, sizeOf(shape)).map(value);
    tensors.push({ name, dtype, shape: concreteShape(shape), values: () => values });
  }
  const provenance = { seed, dataSha256: null, version: "0.1.0", settings: { epochs: 0 } };
  const description = { module, recipe, config: configJson(config), provenance, ...(refined ? { refined } : {}) };
  return {
    description: track === "weights" ? { ...description, frontier: tinyFrontier(description) } : description,
    tensors,
  };
}

/** Two points: everything at 2 bits, and down projections at 4. */
function tinyFrontier({ module }: ArtifactDescription): Frontier {
  const weights = modelSites(module).filter(({ role }) => role === "weight"), sites = weights.map(({ name }) => name);
  const parameters = weights.map((site) => site.parameters), total = parameters.reduce((a, b) => a + b, 0);
  const point = (digit: (site: string) => number, loss: number) => {
    const widths = sites.map(digit), bits = widths.reduce((sum, width, i) => sum + width * (parameters[i] ?? 0), 0);
    return { meanBits: bits / total, loss, widths: widths.join("") };
  };
  return { sites, parameters, points: [point(() => 2, 1), point((site) => site.endsWith("down.weight") ? 4 : 2, 0.5)] };
}

/** The folder of a tiny artifact, in memory. */
export async function tinyFolder(track: Track, config?: DecoderConfig): Promise<Folder> {
  const { description, tensors } = await tinyArtifactParts(track, config);
  return memoryFolder("tiny", new Map([["model.safetensors", await artifactBytes(description, tensors)]]));
}

/** A tiny artifact, open. */
export const tinyArtifact = async (track: Track, config?: DecoderConfig): Promise<Artifact> =>
  await openArtifact(await tinyFolder(track, config));
