/** @file Which tensors an elastic module needs: what is held of the checkpoint, what is learned for each width, and for mixtures. */
import { functionOf, type Module } from "../../ir/module.ts";
import { type Graph, leavesOf, nameOf } from "../../ir/node.ts";
import { type LocalWidths, localWidths, sitesOf } from "../../ir/sites.ts";
import type { TensorType, Width } from "../../ir/types.ts";
import { modelSites } from "../model_sites.ts";
import { specialize } from "../passes/quantize/specialize.ts";
import { prepareGraph } from "../passes/stage.ts";
import type { Recipe } from "../recipe.ts";
import { learnedName, refinedConfig, type RefinedWidths } from "./refined.ts";

/** Types of the tensors that an artifact of this module and these refined mixtures holds, by the names that they have there. */
export function storedTypes(
  module: Module,
  recipe: Recipe,
  refined: readonly RefinedWidths[] = [],
): ReadonlyMap<string, TensorType> {
  const ofFunction = new Map(
    Object.entries(module.functions).map(([name, graph]) => [name, localTypes(graph, recipe)]),
  );
  const common = module.calls.flatMap((call) => {
    functionOf(module, call);
    return [...ofFunction.get(call.function) ?? []].map(([name, type]) => [call.prefix + name, type] as const);
  });
  const sites = modelSites(module),
    own = refined.flatMap((widths, set) => {
      const config = refinedConfig(widths, sites);
      return module.calls.flatMap((call) => {
        const graph = functionOf(module, call), names = new Set(sitesOf(graph).map(({ name }) => name));
        const local = Object.entries(localWidths(config, call.prefix)).filter(([name]) => names.has(name));
        return learnedTypes(graph, Object.fromEntries(local), recipe).map(
          ([name, type]) => [learnedName(call.prefix + name, set), type] as const,
        );
      });
    });
  return new Map([...common, ...own]);
}

function localTypes(graph: Graph, recipe: Recipe): ReadonlyMap<string, TensorType> {
  const holds = prepareGraph(graph).outputs.map(({ name, node }) => [name, node.type] as const);
  const widths = recipe.bitGroups.flat();
  return new Map([...holds, ...widths.flatMap((width) => learnedTypes(graph, weightsAt(graph, width), recipe))]);
}

/** What a function reads of learned values at some widths. */
const learnedTypes = (graph: Graph, widths: LocalWidths, { scheme }: Recipe): (readonly [string, TensorType])[] =>
  leavesOf(specialize(graph, widths, scheme, "deploy"), "param")
    .filter((node) => node.attrs.time === "calibration")
    .map((node) => [nameOf(node), node.type]);

/** Every weight of a function at one width. */
function weightsAt(graph: Graph, width: Width): LocalWidths {
  const weights = sitesOf(graph).filter(({ role }) => role === "weight" || role === "adapter");
  return Object.fromEntries(weights.map(({ name }) => [name, width]));
}
