/** @file A model as every pass leaves it: what `inspect --after` shows. */
import { contractIntegers } from "../compiler/passes/contract_integers.ts";
import { insertCache } from "../compiler/passes/insert_cache.ts";
import { specialize } from "../compiler/passes/quantize/specialize.ts";
import { stackLinears } from "../compiler/passes/stack_linears.ts";
import { stage } from "../compiler/passes/stage.ts";
import { simplifyGraph } from "../compiler/passes/structure/simplify.ts";
import { elasticModule } from "../compiler/pipeline.ts";
import type { Recipe } from "../compiler/recipe.ts";
import { type Call, functionOf, type Module } from "../ir/module.ts";
import type { Graph } from "../ir/node.ts";
import { type BitConfig, type LocalWidths, localWidths, type QuantizationScheme, sitesOf } from "../ir/sites.ts";

/** A module under the name of the pass that made it; names that come twice are numbered. */
export type Snapshots = ReadonlyMap<string, Module>;

/** A front-end's module after every pass that makes it elastic; "start" is the module as it was. */
export function elasticSnapshots(module: Module, recipe: Recipe): Snapshots {
  const snapshots = new Map<string, Module>();
  elasticModule(module, recipe, {
    watch: (name, after) => {
      const count = [...snapshots.keys()].filter((known) => known === name || known.startsWith(`${name} `)).length;
      snapshots.set(count === 0 ? name : `${name} ${count + 1}`, after);
    },
  });
  return snapshots;
}

/** The steps from an elastic function to its step program, as `deployFunction` takes them for GPUs: with a cache of halves, and stacks. */
const DEPLOY_STEPS:
  readonly (readonly [string, (graph: Graph, widths: LocalWidths, scheme: QuantizationScheme) => Graph])[] = [
    ["specialize", (graph, widths, scheme) => specialize(graph, widths, scheme, "deploy")],
    ["stack_linears", (graph) => stackLinears(graph)],
    ["insert_cache", (graph) => insertCache(graph, { halves: true })],
    ["contract_integers", (graph) => contractIntegers(graph)],
    ["simplify_specialized", (graph) => simplifyGraph(graph)],
    ["stage", (graph) => stage(graph).step],
  ];

/** Names of the passes that need widths. */
export const DEPLOY_PASSES: readonly string[] = DEPLOY_STEPS.map(([name]) => name);

/**
 * An elastic module after every pass towards its step programs at one configuration. Calls of one function at different
 * widths become calls of functions of their own: `block`, `block 2`.
 */
export function deploySnapshots(module: Module, config: BitConfig, scheme: QuantizationScheme): Snapshots {
  const split = splitByWidths(module, config), snapshots = new Map<string, Module>();
  let functions = split.module.functions;
  for (const [name, run] of DEPLOY_STEPS) {
    functions = Object.fromEntries(
      Object.entries(functions).map(([key, graph]) => [key, run(graph, split.widths.get(key) ?? {}, scheme)]),
    );
    snapshots.set(name, { ...split.module, functions });
  }
  return snapshots;
}

function splitByWidths(
  module: Module,
  config: BitConfig,
): { module: Module; widths: ReadonlyMap<string, LocalWidths> } {
  const names = new Map<string, string>(),
    widths = new Map<string, LocalWidths>(),
    functions: Record<string, Graph> = {};
  const renamed = module.calls.map((call): Call => {
    const graph = functionOf(module, call),
      all = localWidths(config, call.prefix),
      sites = new Set(sitesOf(graph).map(({ name }) => name));
    const own = Object.fromEntries(Object.entries(all).filter(([site]) => sites.has(site)).sort());
    const key = JSON.stringify([call.function, own]),
      variants = [...names.keys()].filter((known) => JSON.parse(known)[0] === call.function);
    const name = names.get(key) ?? (variants.length === 0 ? call.function : `${call.function} ${variants.length + 1}`);
    names.set(key, name);
    widths.set(name, own);
    functions[name] = graph;
    return { ...call, function: name };
  });
  return { module: { ...module, functions, calls: renamed }, widths };
}
