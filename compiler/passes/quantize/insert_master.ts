/** @file Puts the master, the stored copy that every width is made from, behind the weight of every linear. */
import { halfMaster, integerMaster } from "../../../ir/composites/quantizers.ts";
import type { Graph } from "../../../ir/node.ts";
import type { QuantizationScheme } from "../../../ir/sites.ts";
import { mapWeights } from "./linears.ts";

/**
 * W -> dequantised master of W, for every linear (design.md 8). What passes before did to the weight (scales, rotations) is
 * inside the master; adapters and quantizers go in front of it.
 */
export function insertMaster(graph: Graph, { master }: Pick<QuantizationScheme, "master">): Graph {
  return mapWeights(
    graph,
    (b, weight, { name }) =>
      master.kind === "fp16"
        ? halfMaster(b, weight, name)
        : integerMaster(b, weight, { name, groupSize: master.groupSize, fine: master.kind === "int10" }),
  );
}
