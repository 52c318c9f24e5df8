/** Lowers contractions with their prologues and epilogues. */
import type { Node } from "../../ir/node.ts";
import { concreteShape } from "../../ir/types.ts";
import type { Access, DotKernel, Expr } from "../kernel.ts";
import { accessKey, combine, linearAccess, refineExtents } from "./access.ts";
import { accessesIn, collapsed, collapseLoops, mapAccesses } from "./collapse.ts";
import { createExpressions, NotAffine, scalarOf } from "./expressions.ts";
import { type LoweredKernel, type LoweringContext, relatedShapes, storeOf, unitTools } from "./lower_unit.ts";
import type { Unit } from "./partition.ts";

const ACCUMULATOR = 0, INNER = 1;

/** One kernel: operands at [b, m, k…] and [b, n, k…], results at [b, m, n]. */
export function lowerDot(unit: Unit, context: LoweringContext): LoweredKernel {
  const { isStored, newBuffers, attempt, results, fuses, kernelName } = unitTools(unit, context);
  const anchor = unit.anchors[0] as Node, dot = unit.inner ?? anchor;
  const [lhs, rhs] = dot.inputs as readonly [Node, Node];
  const [outer = 1, m = 1, ...kDims] = concreteShape(lhs.type.shape), n = Number(rhs.type.shape[1]);
  // In a scaled sum over groups the batch axis of the contraction is the group axis.
  const batch = unit.inner ? 1 : outer, groups = unit.inner ? [outer] : [];
  const inner = refineExtents(kDims, relatedShapes([lhs, rhs], isStored));
  const k = inner.length > 0 ? inner : [1];
  const size = k.reduce((a, b) => a * b, 1), loops = 2 + groups.length + k.length;
  const buffers = newBuffers();

  const operandIndex = (rows: number): Access => {
    const position = linearAccess(k).strides;
    return { offset: 0, strides: unit.inner ? [0, size, rows * size, ...position] : [rows * size, size, ...position] };
  };
  const operand = (node: Node, rows: number): Expr => {
    const { build } = createExpressions([batch, rows, ...groups, ...k], { buffers, isStored });
    return attempt(anchor, () => build(node, operandIndex(rows)));
  };
  const left = operand(lhs, m), right = operand(rhs, n);
  const joined = collapseLoops(
    [batch, m, ...groups, ...k],
    [[0, 1], [1, 2], ...(unit.inner ? [[2, 3] as const] : []), [2 + groups.length, loops]],
    accessesIn([left, right]),
  );
  const walk = mapAccesses(collapsed(joined));

  const atResult = linearAccess([batch, m, n]);
  const finished = (node: Node, index: Access): Expr | undefined => {
    if (node !== anchor) return undefined;
    if (accessKey(index) !== accessKey(atResult)) throw new NotAffine(node);
    return { kind: "value", id: ACCUMULATOR, scalar: unit.inner ? "f32" : scalarOf(anchor.type.dtype) };
  };
  const { build } = createExpressions([batch, m, n], { buffers, isStored, local: finished });
  const stores = results.map((node) => attempt(node, () => storeOf(node, atResult, [batch, m, n], build, buffers)));

  const kernel: DotKernel = {
    kind: "dot",
    name: kernelName(dot),
    fuses: fuses(),
    buffers: buffers.buffers,
    batch,
    m,
    n,
    k: joined.extents.slice(2),
    scalar: dot.type.dtype === "i32" ? "i32" : "f32",
    lhs: walk(left),
    rhs: walk(right),
    accumulator: ACCUMULATOR,
    ...(unit.inner ? { groups: { inner: INNER, term: groupTerm() } } : {}),
    stores,
  };
  return { kernel, nodes: buffers.nodes };

  /** What one group adds: the operand of the sum at [b, m, n, g]. */
  function groupTerm(): Expr {
    const extents = [1, m, n, outer];
    const index = combine(4, [[{ offset: 0, strides: [0, n, 1, m * n] }, 1]]);
    const inside = (node: Node, at: Access): Expr | undefined => {
      if (node !== dot) return undefined;
      if (accessKey(at) !== accessKey(index)) throw new NotAffine(node);
      return { kind: "value", id: INNER, scalar: scalarOf(dot.type.dtype) };
    };
    const term = createExpressions(extents, { buffers, isStored, local: inside });
    return attempt(anchor, () => term.build(anchor.inputs[0] as Node, index));
  }
}
