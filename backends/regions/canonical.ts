/** Rewrites before partitioning: markers vanish, contractions get one form, long reductions are split in two. */
import type { Builder } from "../../ir/builder.ts";
import { type Graph, type Node, numbersAttr } from "../../ir/node.ts";
import { dotAxes } from "../../ir/ops/contractions.ts";
import { rewrite, type Rule } from "../../ir/rewrite.ts";
import { concreteShape, sizeOf } from "../../ir/types.ts";
import { boundsInBias } from "./attention_bounds.ts";

/** Reductions longer than this with fewer rows than `FEW_ROWS` run in two stages, so that threads have something to share. */
const LONG_ROW = 8192;
const FEW_ROWS = 32;

/**
 * The graph that regions are cut from: `hold`, `site` and `straightThrough` are gone; every `dot` is
 * `[batch, m, k…] · [batch, n, k…]`; sums over nearly everything are sums of partial sums;
 * no operation has as many operands as a kernel may bind buffers.
 */
export function canonicalize(graph: Graph, maxBuffers: number): Graph {
  return rewrite(rewrite(graph, swapTransposed), (node, b) => {
    switch (node.op) {
      case "hold":
      case "site":
      case "straightThrough":
        return node.inputs[0];
      case "dot":
        return canonicalDot(node, b);
      case "sum":
      case "max":
      case "min":
        return splitReduction(node, b);
      case "attentionGrad":
        return node.inputs.length < maxBuffers ? undefined : boundsInBias(node, b);
      default:
        return undefined;
    }
  });
}

/** (a·b)ᵀ = b·a: a contraction can write either order, a copy behind it costs a kernel. */
const swapTransposed: Rule = (node, b) => {
  const dot = node.inputs[0];
  if (node.op !== "transpose" || dot?.op !== "dot" || dot.type.shape.length !== 2 || dot.attrs.lhsBatch !== undefined) {
    return undefined;
  }
  const [lhs, rhs] = dot.inputs as readonly [Node, Node], axes = dotAxes([lhs.type, rhs.type], dot.attrs);
  if (axes.lhsFree.length !== 1 || numbersAttr(node.attrs, "permutation")[0] !== 1) return undefined;
  return b.dot(rhs, lhs, { lhsContract: axes.rhsContract, rhsContract: axes.lhsContract });
};

function canonicalDot(node: Node, b: Builder): Node {
  const [lhs, rhs] = node.inputs as readonly [Node, Node];
  const axes = dotAxes([lhs.type, rhs.type], node.attrs);
  const extent = (x: Node, list: readonly number[]) => sizeOf(list.map((axis) => x.type.shape[axis] ?? 1));
  const arrange = (x: Node, batch: readonly number[], free: readonly number[], contract: readonly number[]) =>
    b.reshape(b.transpose(x, [...batch, ...free, ...contract]), [
      extent(x, batch),
      extent(x, free),
      ...(contract.length === 0 ? [1] : contract.map((axis) => x.type.shape[axis] ?? 1)),
    ]);
  const left = arrange(lhs, axes.lhsBatch, axes.lhsFree, axes.lhsContract);
  const right = arrange(rhs, axes.rhsBatch, axes.rhsFree, axes.rhsContract);
  const contract = left.type.shape.slice(2).map((_, i) => i + 2);
  const product = b.dot(left, right, { lhsBatch: [0], rhsBatch: [0], lhsContract: contract, rhsContract: contract });
  return b.reshape(product, node.type.shape);
}

function splitReduction(node: Node, b: Builder): Node | undefined {
  const x = node.inputs[0] as Node, shape = concreteShape(x.type.shape), axes = numbersAttr(node.attrs, "axes");
  const total = sizeOf(shape), rows = sizeOf(node.type.shape), length = total / rows;
  // Only reductions of whole trailing (or all) axes: their rows lie one after the other.
  const trailing = shape.every((dim, axis) => dim === 1 || axes.includes(axis) === (axis >= Math.min(...axes)));
  if (!trailing || rows >= FEW_ROWS || length < LONG_ROW) return undefined;
  const parts = partsOf(length);
  if (parts === undefined) return undefined;
  const reduce = (y: Node) => b.make(node.op, [y], { axes: [2] });
  const partial = reduce(b.reshape(x, [rows, parts, length / parts]));
  return b.reshape(reduce(b.reshape(partial, [rows, 1, parts])), node.type.shape);
}

/** A number of parts near the square root that divides the length. */
function partsOf(length: number): number | undefined {
  const root = Math.floor(Math.sqrt(length));
  for (let parts = root; parts > Math.max(4, root / 16); parts--) if (length % parts === 0) return parts;
  return undefined;
}
