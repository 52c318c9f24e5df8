/** The unsliced elastic module on the reference evaluator: what sessions and evaluation must agree with. */
import type { ArtifactTensor } from "../../compiler/artifact/artifact.ts";
import type { ArtifactDescription } from "../../compiler/artifact/description.ts";
import { specialize } from "../../compiler/passes/quantize/specialize.ts";
import { functionOf, type Module } from "../../ir/module.ts";
import { type BitConfig, localWidths, sitesOf } from "../../ir/sites.ts";
import { type Load, runModule, tokenInputs } from "./run_module.ts";

/** A model as `tinyArtifactParts` makes it, with the values of its checkpoint. */
export interface Truth {
  readonly description: ArtifactDescription;
  readonly tensors: readonly ArtifactTensor[];
  readonly load: Load;
}

/** Logits of all tokens at a configuration, row by row. */
export async function trueLogits(
  truth: Truth,
  config: BitConfig,
  ids: readonly number[],
): Promise<readonly Float64Array[]> {
  const { description: { module, recipe }, tensors, load } = truth;
  const functions = module.calls.map((call, i) => {
    const graph = functionOf(module, call), names = new Set(sitesOf(graph).map(({ name }) => name));
    const widths = Object.entries(localWidths(config, call.prefix)).filter(([name]) => names.has(name));
    return [String(i), specialize(graph, Object.fromEntries(widths), recipe.scheme, "deploy")] as const;
  });
  const concrete: Module = {
    ...module,
    functions: Object.fromEntries(functions),
    calls: module.calls.map((call, i) => ({ ...call, function: String(i) })),
  };
  const learned = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const { logits = new Float64Array() } = await runModule(concrete, tokenInputs(ids), async (name, type) => {
    const found = /\.(clip|adapter)\./.test(name) ? learned.get(name) : undefined;
    return found ? Float64Array.from(await found.values()) : await load(name, type);
  });
  const width = logits.length / ids.length;
  return ids.map((_, t) => logits.slice(t * width, (t + 1) * width));
}
