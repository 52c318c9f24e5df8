/** @file Which tensors an elastic module needs: what is held of the checkpoint, and what is learned for each width. */
import { functionOf, type Module } from "../../ir/module.ts";
import { type Graph, leavesOf, nameOf } from "../../ir/node.ts";
import { sitesOf } from "../../ir/sites.ts";
import type { TensorType, Width } from "../../ir/types.ts";
import { specialize } from "../passes/quantize/specialize.ts";
import { prepareGraph } from "../passes/stage.ts";
import type { Recipe } from "../recipe.ts";

/** Types of the tensors that an artifact of this module holds, by global name. */
export function storedTypes(module: Module, recipe: Recipe): ReadonlyMap<string, TensorType> {
  const ofFunction = new Map(
    Object.entries(module.functions).map(([name, graph]) => [name, localTypes(graph, recipe)]),
  );
  return new Map(module.calls.flatMap((call) => {
    functionOf(module, call);
    return [...ofFunction.get(call.function) ?? []].map(([name, type]) => [call.prefix + name, type] as const);
  }));
}

function localTypes(graph: Graph, { scheme, bitGroups }: Recipe): ReadonlyMap<string, TensorType> {
  const holds = prepareGraph(graph).outputs.map(({ name, node }) => [name, node.type] as const);
  const learned = bitGroups.flat().flatMap((width) => {
    const concrete = specialize(graph, weightsAt(graph, width), scheme, "deploy");
    return leavesOf(concrete, "param").filter((node) => node.attrs.time === "calibration");
  });
  return new Map([...holds, ...learned.map((node) => [nameOf(node), node.type] as const)]);
}

/** Every weight of a function at one width. */
function weightsAt(graph: Graph, width: Width): Readonly<Record<string, number>> {
  const weights = sitesOf(graph).filter(({ role }) => role === "weight" || role === "adapter");
  return Object.fromEntries(weights.map(({ name }) => [name, width]));
}
