/** @file Marks where the weight of every linear is quantized. */
import type { Graph } from "../../../ir/node.ts";
import { mapWeights } from "./linears.ts";

/** W -> site(W, role weight), named after the weight; runs behind `insertAdapters`, whose sum is what gets quantized. */
export function insertWeightQuantizers(graph: Graph): Graph {
  return mapWeights(graph, (b, weight, { name }) => b.site(weight, name, "weight"));
}
