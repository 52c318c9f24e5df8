/** @file Stores the tables around the blocks, those of embeddings and of the head, as the master is stored. */
import { type Rows, storedRows } from "../../../ir/composites/quantizers.ts";
import type { Builder } from "../../../ir/builder.ts";
import type { Graph, Node } from "../../../ir/node.ts";
import { rewrite } from "../../../ir/rewrite.ts";
import type { QuantizationScheme } from "../../../ir/sites.ts";
import { type Linear, linearFinder, weightBehind } from "./linears.ts";

/**
 * Puts stored rows in place of what embeddings are gathered from and of the weight of the head. They are the largest matrices of small
 * models, and every token reads all of the head's. Ten bits, with a scale per row, are as good as sixteen: the divergence of
 * stories260K is 0.00001 nats, a thirtieth of what eight bits in the blocks cost.
 */
export function insertTables(graph: Graph, { master }: Pick<QuantizationScheme, "master">): Graph {
  const find = linearFinder(), nameOf = weightBehind();
  return rewrite(graph, (node, b) => {
    const linear = find(node);
    if (linear) {
      return b.reshape(
        product(b, linear, storedRows(b, matrixOf(b, linear), linear.name, master.kind)),
        node.type.shape,
      );
    }
    const [table, ids] = node.inputs, name = node.op === "gather" && table ? nameOf(table) : undefined;
    return name === undefined ? undefined : gathered(b, storedRows(b, table as Node, name, master.kind), ids as Node);
  });
}

const matrixOf = (b: Builder, { weight, rows, columns }: Linear): Node => b.reshape(weight, [rows, columns]);

/** x·Wᵀ from the parts of W: none of them is ever there in f32. */
function product(b: Builder, { source, sourceShape, rows }: Linear, { parts, scale }: Rows): Node {
  const x = b.reshape(source, sourceShape), axes = { lhsContract: [sourceShape.length - 1], rhsContract: [1] };
  const sum = sumOf(b, parts.map((part) => b.mul(b.dot(x, valuesOf(b, part.stored, part), axes), part.unit)));
  return scale ? b.mul(sum, b.reshape(scale, [rows])) : sum;
}

function gathered(b: Builder, { parts, scale }: Rows, ids: Node): Node {
  const sum = sumOf(b, parts.map((part) => b.mul(valuesOf(b, b.gather(part.stored, ids), part), part.unit)));
  return scale ? b.mul(sum, b.gather(scale, ids)) : sum;
}

const valuesOf = (b: Builder, stored: Node, { zero }: Rows["parts"][number]): Node =>
  zero === 0 ? b.cast(stored, "f32") : b.sub(b.cast(stored, "f32"), zero);

const sumOf = (b: Builder, terms: readonly Node[]): Node => terms.reduce((sum, term) => b.add(sum, term));
