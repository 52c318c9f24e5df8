/** @file The programs of an elastic module's functions, made once per combination of widths. */
import { specialize } from "../compiler/passes/quantize/specialize.ts";
import { stage } from "../compiler/passes/stage.ts";
import { simplifyGraph } from "../compiler/passes/structure/simplify.ts";
import { deployFunction, deployFunctionWithCache } from "../compiler/pipeline.ts";
import { type Call, functionOf, type Module } from "../ir/module.ts";
import type { Graph } from "../ir/node.ts";
import { FULL_WIDTH, type LocalWidths, type QuantizationScheme, sitesOf } from "../ir/sites.ts";

/** Programs by function and widths; equal requests give one graph object, which a runner compiles once. */
export interface ElasticPrograms {
  /** The step program of a call's function at these widths. */
  step(call: Call, widths: LocalWidths): Graph;
  /** The program that makes codes, scales and zero points of one weight; outputs have the names the step program knows. */
  switch(call: Call, site: string, width: number): Graph;
  /** Weight sites of the call's function, by local name. */
  weights(call: Call): readonly string[];
}

/**
 * The programs of a module.
 *
 * @param cache whether step programs keep keys and values, or see whole sequences
 */
export function createPrograms(
  module: Module,
  scheme: QuantizationScheme,
  { cache }: { readonly cache: boolean },
): ElasticPrograms {
  const graphs = new Map<string, Graph>();
  const remember = (key: readonly unknown[], make: () => Graph): Graph => {
    const text = JSON.stringify(key), found = graphs.get(text) ?? make();
    graphs.set(text, found);
    return found;
  };
  return {
    step: (call, widths) => {
      const graph = functionOf(module, call), names = new Set(sitesOf(graph).map(({ name }) => name));
      const own = [...names].sort().flatMap((name) =>
        (widths[name] ?? FULL_WIDTH) < FULL_WIDTH ? [[name, widths[name]]] : []
      );
      return remember(
        ["step", call.function, own],
        () => (cache ? deployFunctionWithCache : deployFunction)(graph, Object.fromEntries(own), scheme).step,
      );
    },
    // A weight's codes depend on that weight alone: there are as many switch programs as widths, not as combinations of them.
    // Simplified behind the cut, which leaves a tenth of the function.
    switch: (call, site, width) =>
      remember(
        ["switch", call.function, site, width],
        () => simplifyGraph(stage(specialize(functionOf(module, call), { [site]: width }, scheme, "deploy")).switch),
      ),
    weights: (call) =>
      sitesOf(functionOf(module, call)).filter(({ role }) => role === "weight").map(({ name }) => name),
  };
}
