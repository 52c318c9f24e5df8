/** @file Makes linears contract over the groups of their weight, so that no padding is cut off in between. */
import { type Graph, type Node, numbersAttr } from "../../../ir/node.ts";
import { dotAxes } from "../../../ir/ops/contractions.ts";
import { rewrite } from "../../../ir/rewrite.ts";
import { withoutReshapes } from "./linears.ts";

/**
 * x·slice(W)ᵀ = pad(x)·Wᵀ: a dot whose right operand shows W [p,G,g] as [p,q], the padding of its last group cut off,
 * becomes a dot over both G and g, of x [tokens…, q] padded with zeros and seen as [tokens…, G, g]. Every index is then
 * affine in (row, G, g), which is how codes, scales and zero points lie in memory.
 */
export function contractGroups(graph: Graph): Graph {
  return rewrite(graph, (node, b) => {
    if (node.op !== "dot") return undefined;
    const [x, w] = node.inputs as [Node, Node];
    const axes = dotAxes([x.type, w.type], node.attrs), grouped = groupedWeight(w);
    if (!grouped || axes.lhsBatch.length > 0) return undefined;
    const { weight, columns } = grouped, [rows = 1, groups = 1, size = 1] = weight.type.shape.map(Number);
    const contracted = axes.rhsContract.map((axis) => w.type.shape[axis] ?? 1);
    const lead = axes.lhsFree.map((axis) => x.type.shape[axis] ?? 1);
    const trailing = axes.rhsContract[0] === axes.rhsFree.length && axes.lhsContract[0] === axes.lhsFree.length &&
      [axes.rhsContract, axes.lhsContract].every((list) => list.every((axis, i) => axis === (list[0] ?? 0) + i));
    if (!trailing || contracted.reduce<number>((n, dim) => n * Number(dim), 1) !== columns) return undefined;
    const flat = b.reshape(withoutReshapes(x), [...lead, columns]);
    const none = lead.map(() => 0), padded = b.pad(flat, [...none, 0], [...none, groups * size - columns]);
    const y = b.dot(b.reshape(withoutReshapes(padded), [...lead, groups, size]), weight, {
      lhsContract: [lead.length, lead.length + 1],
      rhsContract: [1, 2],
    });
    const shape = [...lead, ...axes.rhsFree.map((axis) => w.type.shape[axis] ?? 1)];
    return shape.length === y.type.shape.length && shape.at(-1) === rows ? y : b.reshape(y, shape);
  });
}

/** W [p,G,g] behind reshapes and the slice that cuts padding off its rows, and the columns that are left. */
function groupedWeight(operand: Node): { weight: Node; columns: number } | undefined {
  const outer = withoutReshapes(operand);
  const cut = outer.op === "slice" && outer.type.shape.length === 2 && outer.attrs.steps === undefined &&
      numbersAttr(outer.attrs, "starts").every((start) => start === 0)
    ? outer
    : undefined;
  const inner = cut?.inputs[0], weight = inner ? withoutReshapes(inner) : outer;
  const [rows, groups, size] = weight.type.shape.map(Number);
  if (weight.type.shape.length !== 3 || !isDequantized(weight)) return undefined;
  const columns = cut ? Number(cut.type.shape[1]) : Number(groups) * Number(size);
  const whole = !inner || (inner.type.shape[0] === rows && inner.type.shape[1] === Number(groups) * Number(size));
  return whole && (!cut || cut.type.shape[0] === rows) ? { weight, columns } : undefined;
}

/** Whether the value is a product with a scale per row and group [p,G,1]: what dequantizers end in. */
function isDequantized({ op, inputs, type }: Node): boolean {
  return op === "mul" && inputs.some((factor) => {
    const scale = factor.op === "broadcast" ? factor.inputs[0] : factor;
    return scale?.type.shape.length === 3 && scale.type.shape[2] === 1 && scale.type.shape[0] === type.shape[0];
  });
}
