/** Lowers attention, its gradient, and rankings: kernels whose inside is fixed and whose operands are expressions. */
import { flagAttr, type Node, numberAttr, stringAttr } from "../../ir/node.ts";
import { optionalOperands, windowOf } from "../../ir/ops/attention.ts";
import { concreteShape, sizeOf } from "../../ir/types.ts";
import type { Access, AttentionKernel, Expr, TopKKernel } from "../kernel.ts";
import { combine, linearAccess } from "./access.ts";
import { createExpressions } from "./expressions.ts";
import { type LoweredKernel, type LoweringContext, unitTools } from "./lower_unit.ts";
import type { Unit } from "./partition.ts";

/** One kernel for attention (output and log-sum-exp), or for gradients of one side. */
export function lowerAttention(unit: Unit, context: LoweringContext): LoweredKernel {
  const { isStored, newBuffers, attempt, fuses, kernelName } = unitTools(unit, context);
  const node = unit.anchors[0] as Node, gradient = node.op === "attentionGrad", window = windowOf(node.attrs);
  const [q, k, v, output, logSumExp, dy] = node.inputs as readonly [Node, Node, Node, ...(Node | undefined)[]];
  const { bias, positions } = optionalOperands(node.inputs, node.attrs, gradient ? 6 : 3);
  const [batch = 1, tokens = 1, heads = 1, width = 1] = concreteShape(q.type.shape);
  const [, context_ = 1, kvHeads = 1, valueWidth = 1] = concreteShape(v.type.shape);
  const buffers = newBuffers();
  const expression = (x: Node, extents: readonly number[], index: Access = linearAccess(extents)): Expr => {
    const { build } = createExpressions(extents, { buffers, isStored });
    return attempt(node, () => build(x, index));
  };
  const biasIndex = (x: Node): Access => {
    const plane = tokens * context_, planes = Number(x.type.shape.at(-3) ?? 1);
    const own = combine(4, [[{ offset: 0, strides: [0, planes === 1 ? 0 : plane, context_, 1] }, 1]]);
    return x.type.shape.length === 4 ? { ...own, strides: [planes * plane, ...own.strides.slice(1)] } : own;
  };
  const kernel: AttentionKernel = {
    kind: "attention",
    name: kernelName(node),
    fuses: fuses(),
    batch,
    tokens,
    context: context_,
    heads,
    kvHeads,
    width,
    valueWidth,
    scale: numberAttr(node.attrs, "scale"),
    causal: flagAttr(node.attrs, "causal"),
    ...(window === undefined ? {} : { window }),
    q: expression(q, [batch, tokens, heads, width]),
    k: expression(k, [batch, context_, kvHeads, width]),
    v: expression(v, [batch, context_, kvHeads, valueWidth]),
    ...(bias ? { bias: expression(bias, [batch, heads, tokens, context_], biasIndex(bias)) } : {}),
    ...(positions ? { positions: expression(positions, [batch, tokens]) } : {}),
    ...(gradient && output && logSumExp && dy
      ? {
        output: expression(output, [batch, tokens, heads, valueWidth]),
        logSumExp: expression(logSumExp, [batch, tokens, heads]),
        dy: expression(dy, [batch, tokens, heads, valueWidth]),
      }
      : {}),
    results: unit.anchors.map((anchor) => ({ of: resultOf(anchor), buffer: buffers.write(anchor) })),
    buffers: buffers.buffers,
  };
  return { kernel, nodes: buffers.nodes };
}

function resultOf(node: Node): AttentionKernel["results"][number]["of"] {
  const of = stringAttr(node.attrs, "of");
  if (of === "output" || of === "logSumExp" || of === "q" || of === "k" || of === "v") return of;
  throw new TypeError(`Internal error in regions: attention has no result "${of}"`);
}

/** One kernel for the indices of the largest values per row. */
export function lowerTopK(unit: Unit, context: LoweringContext): LoweredKernel {
  const { isStored, newBuffers, attempt, fuses, kernelName } = unitTools(unit, context);
  const node = unit.anchors[0] as Node, x = node.inputs[0] as Node, buffers = newBuffers();
  const n = Number(x.type.shape.at(-1)), outer = sizeOf(x.type.shape) / n;
  const { build } = createExpressions([outer, n], { buffers, isStored });
  const source = attempt(node, () => build(x, linearAccess([outer, n])));
  const kernel: TopKKernel = {
    kind: "topK",
    name: kernelName(node),
    fuses: fuses(),
    outer,
    n,
    k: numberAttr(node.attrs, "k"),
    source,
    buffer: buffers.write(node),
    buffers: buffers.buffers,
  };
  return { kernel, nodes: buffers.nodes };
}
