/** @file Marks where the low-rank adapter is added to the weight of every linear. */
import type { Graph } from "../../../ir/node.ts";
import { mapWeights } from "./linears.ts";

/** W -> site(W, role adapter), named after the weight: the adapter lives in weight space (quept-method 4.4, type 1). */
export function insertAdapters(graph: Graph): Graph {
  return mapWeights(graph, (b, weight, { name }) => b.site(weight, name, "adapter"));
}
