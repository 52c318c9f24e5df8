/** @file Marks where the weight of every linear is quantized. */
import type { Builder } from "../../../ir/builder.ts";
import { type Grouping, groupingOf, type GroupRange, rangeOfGroups } from "../../../ir/composites/quantizers.ts";
import { type Graph, nameOf, type Node } from "../../../ir/node.ts";
import type { QuantizationScheme } from "../../../ir/sites.ts";
import { mapWeights } from "./linears.ts";

/**
 * W -> site(W, ranges, role weight), named after the weight; runs behind `insertAdapters`, whose sum is what gets quantized. Where
 * adapters do not change the weight, the ranges of its groups are known with the checkpoint, for every group size that some width has:
 * holds `<name>.range.<group size, or row>.low` and `….high` f32 [p,G,1]. Else a switch and every step of training would search them.
 */
export function insertWeightQuantizers(
  graph: Graph,
  { groupSizes, adapterSpace }: Pick<QuantizationScheme, "groupSizes" | "adapterSpace">,
): Graph {
  return mapWeights(graph, (b, weight, { name, columns }) => {
    if (adapterSpace === "weight") return b.site(weight, name, "weight");
    const groupings = new Map(
      Object.values(groupSizes).map((size) => {
        const grouping = groupingOf(columns, size);
        return [rangeName(name, grouping), grouping] as const;
      }),
    );
    const ranges = [...groupings].flatMap(([range, grouping]) => heldRange(b, behindAdapter(weight), grouping, range));
    return b.site(weight, name, "weight", ranges);
  });
}

/** The range among the operands of a weight's site that groups of this kind have. */
export function rangeAmong(operands: readonly Node[], weight: string, grouping: Grouping): GroupRange | undefined {
  const name = rangeName(weight, grouping),
    find = (end: string) => operands.find((x) => nameOf(x) === `${name}.${end}`);
  const low = find("low"), high = find("high");
  return low && high ? { low, high } : undefined;
}

const rangeName = (weight: string, { groups, size }: Grouping): string =>
  `${weight}.range.${groups === 1 ? "row" : size}`;

function heldRange(b: Builder, w: Node, grouping: Grouping, name: string): readonly Node[] {
  const { low, high } = rangeOfGroups(b, w, grouping);
  return [b.hold(low, "checkpoint", `${name}.low`), b.hold(high, "checkpoint", `${name}.high`)];
}

/** The value that an adapter's site stands for where the adapter is not added to it. */
function behindAdapter(weight: Node): Node {
  const [value] = weight.inputs;
  return weight.op === "site" && value ? value : weight;
}
