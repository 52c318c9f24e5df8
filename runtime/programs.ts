/** @file The programs of an elastic module's functions, made once per combination of widths. */
import { contractIntegers } from "../compiler/passes/contract_integers.ts";
import { specialize } from "../compiler/passes/quantize/specialize.ts";
import { JOINT, stackLinears } from "../compiler/passes/stack_linears.ts";
import { stage } from "../compiler/passes/stage.ts";
import { simplifyGraph } from "../compiler/passes/structure/simplify.ts";
import { deployFunction, type DeployOptions } from "../compiler/pipeline.ts";
import { memoOf } from "../ir/memo.ts";
import { type Call, functionOf, type Module } from "../ir/module.ts";
import { type Graph, leavesOf, nameOf } from "../ir/node.ts";
import { FULL_WIDTH, type LocalWidths, type QuantizationScheme, sitesOf } from "../ir/sites.ts";

/** A weight, or several that are stacked, in codes of one width. */
export interface CodedWeights {
  /** Under which the step program knows codes, scales and zero points. */
  readonly name: string;
  readonly sites: readonly string[];
  readonly width: number;
}

/** Programs by function and widths; equal requests give one graph object, which a runner compiles once. */
export interface ElasticPrograms {
  /** The step program of a call's function at these widths. */
  step(call: Call, widths: LocalWidths): Graph;
  /** The program that makes codes, scales and zero points; outputs have the names the step program knows. */
  switch(call: Call, weights: CodedWeights): Graph;
  /** What the step program at these widths reads codes of. */
  weights(call: Call, widths: LocalWidths): readonly CodedWeights[];
}

/**
 * The programs of a module.
 *
 * @param options cache, stack: see `DeployOptions`
 */
export function createPrograms(
  module: Module,
  scheme: QuantizationScheme,
  options: DeployOptions,
): ElasticPrograms {
  const graphs = new Map<string, Graph>();
  const remember = (key: readonly unknown[], make: () => Graph): Graph => {
    const text = JSON.stringify(key), found = graphs.get(text) ?? make();
    graphs.set(text, found);
    return found;
  };
  const sites = memoOf((graph: Graph) => [...new Set(sitesOf(graph).map(({ name }) => name))].sort());
  const coded = memoOf((step: Graph) =>
    leavesOf(step, "param").flatMap((leaf) => {
      const [, name] = /^(.*)\.codes$/.exec(nameOf(leaf)) ?? [];
      return name === undefined || leaf.attrs.time !== "configuration" ? [] : [{ name, sites: name.split(JOINT) }];
    })
  );
  const programs: ElasticPrograms = {
    step: (call, widths) => {
      const graph = functionOf(module, call);
      const own = sites(graph).flatMap((name) =>
        (widths[name] ?? FULL_WIDTH) < FULL_WIDTH ? [[name, widths[name]]] : []
      );
      return remember(
        ["step", call.function, own],
        () => deployFunction(graph, Object.fromEntries(own), scheme, options).step,
      );
    },
    // A weight's codes depend on that weight alone: there are as many switch programs as widths, not as combinations of them.
    // Changed behind the cut, which leaves a tenth of the function.
    switch: (call, { sites, width }) =>
      remember(["switch", call.function, sites, width], () => {
        const widths = Object.fromEntries(sites.map((site) => [site, width]));
        const concrete = specialize(functionOf(module, call), widths, scheme, "deploy");
        return simplifyGraph(contractIntegers(stage(sites.length > 1 ? stackLinears(concrete) : concrete).switch));
      }),
    weights: (call, widths) =>
      coded(programs.step(call, widths)).map((weights) => ({
        ...weights,
        width: widths[weights.sites[0] ?? ""] ?? FULL_WIDTH,
      })),
  };
  return programs;
}
