/**
 * The algebra of rotations. R is `hadamard` along one axis, with its signs or transposed; R⁻¹ is the same with
 * `transposed` flipped. The rules move rotations of values of the token's time towards their users until they meet their inverse or
 * end in weights; what finds no end stays where it is, a visible op and never a wrong result.
 */
import type { Builder } from "../../../ir/builder.ts";
import { flagAttr, type Node, numberAttr, numbersAttr } from "../../../ir/node.ts";
import { dotAxes } from "../../../ir/ops/contractions.ts";
import type { Rule } from "../../../ir/rewrite.ts";
import { tensorType } from "../../../ir/types.ts";
import { isCheckpointTime, isConstantAlong, splatOf } from "./values.ts";

/** An orthonormal transform along one axis. */
export interface Rotation {
  readonly axis: number;
  readonly signs: Node | undefined;
  readonly transposed: boolean;
}

/** The rotation that undoes `rotation`. */
export const inverse = (rotation: Rotation): Rotation => ({ ...rotation, transposed: !rotation.transposed });

/** The rotated value, as a node. */
export const rotate = (b: Builder, x: Node, { axis, signs, transposed }: Rotation): Node =>
  b.hadamard(x, axis, signs, transposed);

/** Takes `R x` apart. */
export function asRotated(node: Node | undefined): { readonly x: Node; readonly rotation: Rotation } | undefined {
  const x = node?.inputs[0];
  if (node?.op !== "hadamard" || x === undefined) return undefined;
  const { attrs, inputs } = node;
  return {
    x,
    rotation: { axis: numberAttr(attrs, "axis"), signs: inputs[1], transposed: flagAttr(attrs, "transposed") },
  };
}

const equal = (p: Rotation, q: Rotation): boolean =>
  p.axis === q.axis && p.signs === q.signs && p.transposed === q.transposed;

/** R⁻¹ (R x) = x */
export const cancelRotations: Rule = (node) => {
  const outer = asRotated(node), inner = asRotated(outer?.x);
  return outer && inner && equal(outer.rotation, inverse(inner.rotation)) ? inner.x : undefined;
};

/** Σ (R x)² = Σ x², over axes that hold the rotated one */
const keepSumOfSquares: Rule = (node, b) => {
  const [square] = node.inputs, [p, q] = square?.inputs ?? [], rotated = asRotated(p);
  if (node.op !== "sum" || square?.op !== "mul" || p !== q || !rotated) return undefined;
  const axes = numbersAttr(node.attrs, "axes");
  return axes.includes(rotated.rotation.axis) ? b.sum(b.mul(rotated.x, rotated.x), axes) : undefined;
};

/** (R x) · c = R (x · c) and (R x) / c = R (x / c), where c is constant along the axis */
const commuteWithScale: Rule = (node, b) => {
  const [p, q] = node.inputs;
  if ((node.op !== "mul" && node.op !== "div") || !p || !q) return undefined;
  const left = asRotated(p), right = node.op === "mul" ? asRotated(q) : undefined;
  if (left && isConstantAlong(q, left.rotation.axis)) return rotate(b, b.make(node.op, [left.x, q]), left.rotation);
  if (right && isConstantAlong(p, right.rotation.axis)) return rotate(b, b.mul(p, right.x), right.rotation);
  return undefined;
};

/** R x ± v = R (x ± R⁻¹ v), where R⁻¹ v costs nothing per token; the same with the operands exchanged */
const gatherSum: Rule = (node, b) => {
  const [p, q] = node.inputs;
  if ((node.op !== "add" && node.op !== "sub") || !p || !q) return undefined;
  const left = asRotated(p), right = asRotated(q);
  const other = left ? absorb(b, q, inverse(left.rotation)) : undefined;
  if (left && other) return rotate(b, b.make(node.op, [left.x, other]), left.rotation);
  const first = right ? absorb(b, p, inverse(right.rotation)) : undefined;
  return right && first ? rotate(b, b.make(node.op, [first, right.x]), right.rotation) : undefined;
};

/** ⟨R x, w⟩ = ⟨x, R⁻¹ w⟩ along a contracted axis, where w is known with the checkpoint; ⟨R x, R y⟩ = ⟨x, y⟩ */
const moveIntoWeight: Rule = (node, b) => {
  const [lhs, rhs] = node.inputs;
  if (node.op !== "dot" || !lhs || !rhs) return undefined;
  const { lhsContract, rhsContract } = dotAxes([lhs.type, rhs.type], node.attrs);
  const moved = (x: Node, own: readonly number[], w: Node, other: readonly number[]): [Node, Node] | undefined => {
    const rotated = asRotated(x), axis = other[own.indexOf(rotated?.rotation.axis ?? -1)];
    if (!rotated || axis === undefined || isCheckpointTime(x)) return undefined;
    const back = { ...inverse(rotated.rotation), axis };
    if (isCheckpointTime(w)) return [rotated.x, rotate(b, w, back)];
    const pair = asRotated(w);
    return pair && equal(pair.rotation, inverse(back)) ? [rotated.x, pair.x] : undefined;
  };
  const left = moved(lhs, lhsContract, rhs, rhsContract);
  if (left) return b.make("dot", left, node.attrs);
  const right = moved(rhs, rhsContract, lhs, lhsContract);
  return right ? b.make("dot", [right[1], right[0]], node.attrs) : undefined;
};

/** R v, where v is made by linear operations, by rotating what v is made of */
const moveIntoProducer: Rule = (node, b) => {
  const rotated = asRotated(node);
  return rotated && !isCheckpointTime(node) ? absorb(b, rotated.x, rotated.rotation) : undefined;
};

/** All of the above, in the order in which they are tried. */
export const ROTATION_RULES: readonly Rule[] = [
  cancelRotations,
  keepSumOfSquares,
  commuteWithScale,
  gatherSum,
  moveIntoWeight,
  moveIntoProducer,
];

/**
 * R v without a rotation at the token's time, or `undefined` where there is no such form. A linear layer takes the rotation
 * into its weight and bias; sums and scales pass it on. Attention could pass it on to its values, but then the sandwich around
 * its values (`rotate_heads.ts`) would undo itself.
 */
export function absorb(b: Builder, v: Node, rotation: Rotation): Node | undefined {
  const { axis } = rotation, [p, q] = v.inputs, rotated = asRotated(v);
  if (rotated && equal(rotated.rotation, inverse(rotation))) return rotated.x;
  if (isCheckpointTime(v)) return rotateParameter(b, v, rotation);
  if (!p) return undefined;
  switch (v.op) {
    case "add":
    case "sub": {
      const left = absorb(b, p, rotation), right = left && q ? absorb(b, q, rotation) : undefined;
      return left && right ? b.make(v.op, [left, right]) : undefined;
    }
    case "mul":
    case "div": {
      if (!q) return undefined;
      const left = isConstantAlong(q, axis) ? absorb(b, p, rotation) : undefined;
      if (left) return b.make(v.op, [left, q]);
      const right = v.op === "mul" && isConstantAlong(p, axis) ? absorb(b, q, rotation) : undefined;
      return right ? b.mul(p, right) : undefined;
    }
    case "transpose": {
      const moved = absorb(b, p, { ...rotation, axis: numbersAttr(v.attrs, "permutation")[axis] ?? -1 });
      return moved ? b.make("transpose", [moved], v.attrs) : undefined;
    }
    case "dot":
      return q ? absorbInDot(b, v, p, q, rotation) : undefined;
    default:
      return undefined;
  }
}

/** R (a · W) = a · (R W) along a free axis of W. */
function absorbInDot(b: Builder, v: Node, lhs: Node, rhs: Node, rotation: Rotation): Node | undefined {
  const axes = dotAxes([lhs.type, rhs.type], v.attrs), batch = axes.lhsBatch.length;
  const lhsAxis = axes.lhsFree[rotation.axis - batch];
  const rhsAxis = axes.rhsFree[rotation.axis - batch - axes.lhsFree.length];
  if (rhsAxis !== undefined && isCheckpointTime(rhs)) {
    return b.make("dot", [lhs, rotate(b, rhs, { ...rotation, axis: rhsAxis })], v.attrs);
  }
  if (lhsAxis !== undefined && isCheckpointTime(lhs)) {
    return b.make("dot", [rotate(b, lhs, { ...rotation, axis: lhsAxis }), rhs], v.attrs);
  }
  return undefined;
}

/** Rotates a bias before it is repeated over tokens, so that the rotated value is no larger than the bias along its axis. */
function rotateParameter(b: Builder, v: Node, rotation: Rotation): Node {
  const { shape } = v.type, splat = splatOf(v), x = v.op === "broadcast" ? v.inputs[0] : undefined;
  if (splat === undefined && !x) return rotate(b, v, rotation);
  const repeated = shape.length - (x?.type.shape.length ?? 0), first = Math.min(repeated, rotation.axis);
  const small = shape.slice(first).map((dim, i) =>
    i + first === rotation.axis ? dim : x?.type.shape[i + first - repeated] ?? 1
  );
  const value = x ? b.broadcast(x, small) : b.constant(splat ?? 0, tensorType(v.type.dtype, small));
  return b.broadcast(rotate(b, value, { ...rotation, axis: rotation.axis - first }), shape);
}
