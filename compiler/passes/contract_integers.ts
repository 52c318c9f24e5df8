/**
 * @file Turns contractions of two dequantised operands into contractions of integers (design.md 6).
 *
 * With x̂ = s_x·c_x, one scale per token and symmetric codes, and ŵ = (c_w - z)·s_w, per row n and group g of columns:
 *
 *     y[m,n] = s_x[m] · Σ_g s_w[n,g] · ( Σ_k c_x[m,g,k]·c_w[n,g,k]  -  z[n,g] · Σ_k c_x[m,g,k] )
 *
 * The pattern this pass emits, for x codes i_a [lead…,G,g] and weight codes u_b [p,G,g], is fixed; region fusion relies on it:
 *
 *     rowSum = sum(cast(c_x, i32), axes [last])                          i32 [lead…,G,1], in the program of the codes
 *   several groups, G > 1 ("sum over G of cast(dot batched over G) * scales"):
 *     idot = dot(c_x, c_w, lhsBatch [G], rhsBatch [1], lhsContract [g], rhsContract [2])       i32 [G,lead…,p]
 *     fix  = mul(broadcast(z'), broadcast(cast(rowSum', f32)))                                 f32 [G,lead…,p]
 *     term = mul(sub(cast(idot, f32), fix), broadcast(s_w'))                                   f32 [G,lead…,p]
 *     y    = mul(reshape(sum(term, axes [0]), [lead…,p]), broadcast(s_x))                      f32 [lead…,p]
 *       z' and s_w' are transpose(reshape(·, [p,G]), [1,0]) reshaped to [G,1…,p];
 *       rowSum' is transpose(rowSum) to [G,lead…,1]
 *   one group, G = 1:
 *     idot = dot(c_x, c_w, lhsContract [G,g], rhsContract [1,2])                               i32 [lead…,p]
 *     y    = mul(mul(cast(sub(idot, mul(z', rowSum')), f32), s_w'), s_x), z' and s_w' [p], rowSum' [lead…,1], broadcast
 *       where all zero points are one number z: add(mul(rowSum', -z), idot) in place of the difference
 *
 * Over one group the correction is done in i32, where it is exact: |idot| and |fix| stay below 2^31 up to 66 000 columns. Over several
 * it is done in f32, which is as exact up to 512 columns a group (2^24) and beyond as good as the sum of the terms.
 */
import type { Builder } from "../../ir/builder.ts";
import type { Graph, Node } from "../../ir/node.ts";
import { dotAxes } from "../../ir/ops/contractions.ts";
import { rewrite } from "../../ir/rewrite.ts";
import { isNarrow, sameShape } from "../../ir/types.ts";
import { splatOf } from "./structure/values.ts";

/** Rewrites every linear whose operands are both dequantised codes; other graphs are returned as they are. */
export function contractIntegers(graph: Graph): Graph {
  return rewrite(graph, (node, b) => {
    if (node.op !== "dot" || !contractsGroups(node)) return undefined;
    const [x, w] = node.inputs as [Node, Node];
    const activation = dequantizedTokens(b, x), weight = dequantizedWeight(w, b);
    return activation && weight ? integerDot(b, activation, weight) : undefined;
  });
}

interface Activation {
  /** Signed codes [lead…,G,g]. */
  readonly codes: Node;
  /** f32 [lead…,1]. */
  readonly scale: Node;
}

/** The grid of a weight. */
export interface Weight {
  /** Unsigned codes [p,G,g]. */
  readonly codes: Node;
  /** f32 [p,G,1]. */
  readonly zero: Node;
  readonly scale: Node;
}

/** The form that `contractGroups` makes: [lead…,G,g] with [p,G,g]. */
export function contractsGroups({ inputs, attrs }: Node): boolean {
  const [x, w] = inputs as [Node, Node], axes = dotAxes([x.type, w.type], attrs), rank = x.type.shape.length;
  return axes.lhsBatch.length === 0 && w.type.shape.length === 3 && rank >= 3 &&
    axes.lhsContract.join() === `${rank - 2},${rank - 1}` && axes.rhsContract.join() === "1,2";
}

function integerDot(b: Builder, x: Activation, w: Weight): Node {
  const [rows = 1, groups = 1] = w.codes.type.shape, rank = x.codes.type.shape.length;
  const lead = x.codes.type.shape.slice(0, rank - 2), ones = lead.map(() => 1);
  const rowSum = b.sum(b.cast(x.codes, "i32"), [rank - 1]);
  if (groups === 1) {
    const idot = b.dot(x.codes, w.codes, { lhsContract: [rank - 2, rank - 1], rhsContract: [1, 2] });
    const sums = b.reshape(rowSum, [...lead, 1]), number = splatOf(w.zero);
    // Kernels run in the order of operands: with the sums in front, nothing comes between the product and what reads it.
    const corrected = number === undefined
      ? b.sub(idot, b.mul(b.broadcast(b.reshape(b.cast(w.zero, "i32"), [rows]), idot.type.shape), sums))
      : b.add(b.mul(sums, -number), idot);
    return b.mul(b.mul(b.cast(corrected, "f32"), b.reshape(w.scale, [rows])), x.scale);
  }
  const idot = b.dot(x.codes, w.codes, {
    lhsBatch: [rank - 2],
    rhsBatch: [1],
    lhsContract: [rank - 1],
    rhsContract: [2],
  });
  const perRow = (value: Node) =>
    b.reshape(b.transpose(b.reshape(value, [rows, groups]), [1, 0]), [groups, ...ones, rows]);
  const perToken = b.transpose(rowSum, [rank - 2, ...lead.map((_, axis) => axis), rank - 1]);
  const fix = b.mul(
    b.broadcast(perRow(w.zero), idot.type.shape),
    b.broadcast(b.cast(perToken, "f32"), idot.type.shape),
  );
  const term = b.mul(b.sub(b.cast(idot, "f32"), fix), perRow(w.scale));
  return b.mul(b.reshape(b.sum(term, [0]), [...lead, rows]), x.scale);
}

/** codes · scale, seen through the reshapes and paddings that brought it to [lead…,G,g]; these are applied to the codes. */
function dequantizedTokens(b: Builder, operand: Node): Activation | undefined {
  const moves: Node[] = [];
  let node = operand;
  while ((node.op === "reshape" || node.op === "pad" && node.attrs.value === undefined) && node.inputs[0]) {
    moves.unshift(node);
    node = node.inputs[0];
  }
  const product = productWithScale(node), codes = product && codesBehind(product.value);
  if (!product || !codes) return undefined;
  const lead = operand.type.shape.slice(0, -2);
  if (!sameShape(product.scale.type.shape, [...lead, 1])) return undefined;
  const moved = moves.reduce((x, { op, attrs }) => b.make(op, [x], attrs), codes);
  return { codes: moved, scale: product.scale };
}

/** The grid that a weight is dequantized from; with a builder also one whose zero points are all the same number. */
export function dequantizedWeight(operand: Node, b?: Builder): Weight | undefined {
  const product = productWithScale(operand), difference = product?.value;
  if (!product || difference?.op !== "sub") return undefined;
  const [minuend, subtrahend] = difference.inputs as [Node, Node];
  const perGroup = [...operand.type.shape.slice(0, 2), 1], number = splatOf(subtrahend);
  const zero = b && number !== undefined
    ? b.constant(number, { ...subtrahend.type, shape: perGroup })
    : withoutBroadcast(subtrahend);
  const codes = codesBehind(minuend);
  const fits = codes && sameShape(zero.type.shape, perGroup) && sameShape(product.scale.type.shape, perGroup);
  return fits ? { codes, zero, scale: product.scale } : undefined;
}

/** value · broadcast(scale), the scale of size 1 on the last axis. */
function productWithScale(node: Node): { value: Node; scale: Node } | undefined {
  if (node.op !== "mul") return undefined;
  const [left, right] = node.inputs as [Node, Node];
  for (const [value, factor] of [[left, right], [right, left]] as const) {
    const scale = withoutBroadcast(factor);
    if (scale.type.shape.length === node.type.shape.length && scale.type.shape.at(-1) === 1) return { value, scale };
  }
  return undefined;
}

/** The narrow codes that were cast to f32. */
function codesBehind(node: Node): Node | undefined {
  const source = node.op === "cast" ? node.inputs[0] : undefined;
  return source && isNarrow(source.type.dtype) ? source : undefined;
}

const withoutBroadcast = (node: Node): Node => node.op === "broadcast" && node.inputs[0] ? node.inputs[0] : node;
