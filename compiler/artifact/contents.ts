/** @file Which tensors an elastic module needs: what is held of the checkpoint, what is learned for each width, and for mixtures. */
import { type Call, functionOf, type Module } from "../../ir/module.ts";
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
  const known = new Map(Object.values(module.functions).map((graph) => [graph, localTypes(graph, recipe)]));
  const typesOf = (call: Call) => known.get(functionOf(module, call)) as LocalTypes;
  const common = module.calls.flatMap((call) => {
    const { holds, learned } = typesOf(call);
    return [...holds, ...[...learned.values()].flat()].map(([name, type]) => [call.prefix + name, type] as const);
  });
  const sites = modelSites(module);
  const own = refined.flatMap((widths, set) => {
    const config = refinedConfig(widths, sites);
    return module.calls.flatMap((call) =>
      Object.entries(localWidths(config, call.prefix)).flatMap(([site, width]) => {
        // What a site learns depends on its own width alone.
        const learned = typesOf(call).learned.get(width)?.filter(([name]) => name.startsWith(`${site}.`)) ?? [];
        return learned.map(([name, type]) => [learnedName(call.prefix + name, set), type] as const);
      })
    );
  });
  return new Map([...common, ...own]);
}

type NamedType = readonly [name: string, type: TensorType];

/** What a function holds of the checkpoint, and what it learns for each width. */
interface LocalTypes {
  readonly holds: readonly NamedType[];
  readonly learned: ReadonlyMap<number, readonly NamedType[]>;
}

function localTypes(graph: Graph, { scheme, bitGroups }: Recipe): LocalTypes {
  const holds = prepareGraph(graph).outputs.map(({ name, node }) => [name, node.type] as const);
  const learned = bitGroups.flat().map((width) => {
    const concrete = specialize(graph, weightsAt(graph, width), scheme, "deploy");
    const nodes = leavesOf(concrete, "param").filter((node) => node.attrs.time === "calibration");
    return [width, nodes.map((node) => [nameOf(node), node.type] as const)] as const;
  });
  return { holds, learned: new Map(learned) };
}

/** Every weight of a function at one width. */
function weightsAt(graph: Graph, width: Width): LocalWidths {
  const weights = sitesOf(graph).filter(({ role }) => role === "weight" || role === "adapter");
  return Object.fromEntries(weights.map(({ name }) => [name, width]));
}
