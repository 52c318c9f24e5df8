/** The block of a tiny decoder with all quantizer sites, and random values for whatever leaves a graph of it has. */
import { evaluate, type EvaluateOptions } from "../../backends/reference/evaluate.ts";
import type { DecoderConfig } from "../../compiler/frontends/config.ts";
import { adaptersOf } from "../../compiler/adapters.ts";
import { decoderModule } from "../../compiler/frontends/decoder.ts";
import { insertActivationQuantizers } from "../../compiler/passes/quantize/insert_activation_quantizers.ts";
import { insertAdapters } from "../../compiler/passes/quantize/insert_adapters.ts";
import { insertCacheQuantizers } from "../../compiler/passes/quantize/insert_cache_quantizers.ts";
import { insertMaster } from "../../compiler/passes/quantize/insert_master.ts";
import { insertWeightQuantizers } from "../../compiler/passes/quantize/insert_weight_quantizers.ts";
import type { Symbols } from "../../ir/dim.ts";
import { type Graph, leavesOf, nameOf } from "../../ir/node.ts";
import { random } from "../../ir/random.ts";
import { eachWidth, type LocalWidths, type QuantizationScheme, sitesOf } from "../../ir/sites.ts";
import { bindSymbols } from "../../ir/symbols.ts";
import { type DType, isNarrow, rangeOf, sizeOf } from "../../ir/types.ts";
import { VARIANTS } from "./random_decoder.ts";

/** Groups that pad (5 of 16 and 24 columns), groups that do not (8), rows; a master that pads. */
export const SCHEME: QuantizationScheme = {
  groupSizes: { 2: 8, 3: 5, 4: -1, 5: -1, 6: 8, 7: 5, 8: -1 },
  adapters: adaptersOf("cascaded", { 2: 4, 3: 3, 4: 3, 5: 2, 6: 2, 7: 1, 8: 0 }),
  adapterSpace: "weight",
  master: { kind: "int8", groupSize: 10 },
  cacheClip: eachWidth(() => 0.95),
  activationClip: eachWidth(() => 1),
};

/** The function `block` of a tiny decoder. */
export const blockOf = (config: DecoderConfig = VARIANTS["all biases, width 20"]): Graph =>
  decoderModule(config).functions.block as Graph;

/** The block with master, adapters and all sites. */
export function quantizableBlock(config?: DecoderConfig, scheme: QuantizationScheme = SCHEME): Graph {
  const weights = insertWeightQuantizers(insertAdapters(insertMaster(blockOf(config), scheme)), scheme);
  return insertCacheQuantizers(insertActivationQuantizers(weights));
}

/** One width for all weights, one for all activations, one for keys and values. */
export function uniformWidths(graph: Graph, weight: number, activation: number, cache: number): LocalWidths {
  const widths = { weight, adapter: weight, activation, key: cache, value: cache };
  return Object.fromEntries(sitesOf(graph).map(({ name, role }) => [name, widths[role]]));
}

/** Random values for the leaves of a concrete graph, the same for the same names; `given` values are taken as they are. */
export function leafValues(
  graph: Graph,
  given: Readonly<Record<string, Float64Array>> = {},
): Record<string, Float64Array> {
  const leaves = [...leavesOf(graph, "param"), ...leavesOf(graph, "input")];
  return Object.fromEntries(leaves.map((node) => {
    const name = nameOf(node), draw = random(1, name.replace(/\.\d$/, "")), size = sizeOf(node.type.shape);
    const [low, high] = isNarrow(node.type.dtype) ? rangeOf(node.type.dtype) : [0, 0];
    const value = high > low
      ? () => low + draw.int(high - low + 1)
      : /adapter.*scale$/.test(name)
      ? () => Math.fround(0.004 * (1 + draw.uniform()))
      : () => Math.fround(draw.normal() * 0.4);
    return [name, given[name] ?? Float64Array.from({ length: size }, value)];
  }));
}

/** Evaluates a graph whose symbols are bound to these sizes, with random values for what is not given. */
export function run(
  graph: Graph,
  given: Readonly<Record<string, Float64Array>> = {},
  symbols: Symbols = { B: 2, T: 3, S: 8 },
  options: EvaluateOptions = {},
): Record<string, Float64Array> {
  const bound = bindSymbols(graph, symbols);
  return evaluate(bound, leafValues(bound, given), options);
}

/** Names and types of all holds, sorted. */
export const holdsOf = (graph: Graph): readonly string[] =>
  graph.nodes.filter(({ op }) => op === "hold").map((node) =>
    `${node.attrs.time} ${nameOf(node)} ${node.type.dtype}[${node.type.shape}]`
  ).sort();

/** Types of all dots' results, as multiset. */
export const dotTypes = (graph: Graph): Record<string, number> => {
  const counts: Partial<Record<DType, number>> = {};
  for (const { op, type } of graph.nodes) if (op === "dot") counts[type.dtype] = (counts[type.dtype] ?? 0) + 1;
  return counts as Record<string, number>;
};
