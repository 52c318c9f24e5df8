/** Simplifications of movements. Each rule stands under its equation; none makes a graph larger. */
import { type Node, numberAttr, numbersAttr } from "../../../ir/node.ts";
import { isMovement } from "../../../ir/ops.ts";
import type { Rule } from "../../../ir/rewrite.ts";
import { sameShape } from "../../../ir/types.ts";
import { splatOf } from "./values.ts";

const operandOf = (node: Node, op: Node["op"]): { readonly x: Node; readonly inner: Node | undefined } | undefined => {
  const [x] = node.inputs;
  return node.op === op && x ? { x, inner: x.op === op ? x.inputs[0] : undefined } : undefined;
};

const stepsOf = ({ attrs }: Node): readonly number[] =>
  attrs.steps === undefined ? numbersAttr(attrs, "starts").map(() => 1) : numbersAttr(attrs, "steps");

/** reshape(x, shape of x) = x; reshape(reshape(x)) = reshape(x) */
const reshapeTwice: Rule = (node, b) => {
  const found = operandOf(node, "reshape");
  if (!found) return undefined;
  if (sameShape(found.x.type.shape, node.type.shape)) return found.x;
  return found.inner && b.reshape(found.inner, node.type.shape);
};

/** transpose(x, identity) = x; transpose(transpose(x, p), q) = transpose(x, p ∘ q) */
const transposeTwice: Rule = (node, b) => {
  const found = operandOf(node, "transpose");
  if (!found) return undefined;
  const permutation = numbersAttr(node.attrs, "permutation");
  if (permutation.every((axis, i) => axis === i)) return found.x;
  if (!found.inner) return undefined;
  const first = numbersAttr(found.x.attrs, "permutation");
  return b.transpose(found.inner, permutation.map((axis) => first[axis] ?? 0));
};

/** transpose(x) = reshape(x) where only axes of size 1 change places */
const transposeOfUnits: Rule = (node, b) => {
  const found = operandOf(node, "transpose");
  const moved = found && numbersAttr(node.attrs, "permutation").filter((axis) => found.x.type.shape[axis] !== 1);
  const ordered = moved?.every((axis, i) => i === 0 || axis > (moved[i - 1] ?? 0));
  return found && ordered ? b.reshape(found.x, node.type.shape) : undefined;
};

/** broadcast(x, shape of x) = x; broadcast(broadcast(x)) = broadcast(x) */
const broadcastTwice: Rule = (node, b) => {
  const found = operandOf(node, "broadcast");
  if (!found) return undefined;
  if (sameShape(found.x.type.shape, node.type.shape)) return found.x;
  return found.inner && b.broadcast(found.inner, node.type.shape);
};

/** broadcast(x) = reshape(x) where only leading axes of size 1 are added */
const broadcastOfUnits: Rule = (node, b) => {
  const found = operandOf(node, "broadcast");
  if (!found) return undefined;
  const added = node.type.shape.length - found.x.type.shape.length;
  const same = sameShape(node.type.shape.slice(added), found.x.type.shape);
  return same && node.type.shape.slice(0, added).every((dim) => dim === 1)
    ? b.reshape(found.x, node.type.shape)
    : undefined;
};

/** slice(x, all) = x; slice(slice(x)) = slice(x) */
const sliceTwice: Rule = (node, b) => {
  const found = operandOf(node, "slice");
  if (!found) return undefined;
  const steps = stepsOf(node), starts = numbersAttr(node.attrs, "starts");
  if (sameShape(found.x.type.shape, node.type.shape) && steps.every((step) => step === 1)) return found.x;
  if (!found.inner) return undefined;
  const first = numbersAttr(found.x.attrs, "starts"), firstSteps = stepsOf(found.x);
  const start = first.map((at, i) => at + (starts[i] ?? 0) * (firstSteps[i] ?? 1));
  return b.slice(found.inner, start, node.type.shape, steps.map((step, i) => step * (firstSteps[i] ?? 1)));
};

/** slice(concat(…, x, …)) = slice(x) where it lies within x */
const sliceOfConcat: Rule = (node, b) => {
  const joined = operandOf(node, "slice")?.x;
  if (joined?.op !== "concat") return undefined;
  const axis = numberAttr(joined.attrs, "axis"), starts = numbersAttr(node.attrs, "starts"), steps = stepsOf(node);
  const start = starts[axis] ?? 0, last = start + (Number(node.type.shape[axis]) - 1) * (steps[axis] ?? 1);
  let offset = 0;
  for (const part of joined.inputs) {
    const end = offset + Number(part.type.shape[axis]), from = offset;
    if (Math.min(start, last) >= from && Math.max(start, last) < end) {
      return b.slice(part, starts.map((at, i) => i === axis ? at - from : at), node.type.shape, steps);
    }
    offset = end;
  }
  return undefined;
};

/** slice(pad(x)) = slice(x) where it lies within x */
const sliceOfPad: Rule = (node, b) => {
  const padded = operandOf(node, "slice")?.x, [x] = padded?.inputs ?? [];
  if (padded?.op !== "pad" || !x) return undefined;
  const before = numbersAttr(padded.attrs, "before"), steps = stepsOf(node);
  const starts = numbersAttr(node.attrs, "starts").map((at, i) => at - (before[i] ?? 0));
  const within = starts.every((start, i) => {
    const dim = x.type.shape[i], size = node.type.shape[i];
    if (dim === size && start === 0 && steps[i] === 1) return true;
    if (typeof dim !== "number" || typeof size !== "number") return false;
    const last = start + (size - 1) * (steps[i] ?? 1);
    return Math.min(start, last) >= 0 && Math.max(start, last) < dim;
  });
  return within ? b.slice(x, starts, node.type.shape, steps) : undefined;
};

/** concat(x) = x */
const concatOfOne: Rule = (node) => node.op === "concat" && node.inputs.length === 1 ? node.inputs[0] : undefined;

/** pad(x, 0) = x */
const padByNothing: Rule = (node) => {
  const found = operandOf(node, "pad");
  return found && sameShape(found.x.type.shape, node.type.shape) ? found.x : undefined;
};

/** A movement of one repeated number is that number in another shape (for `pad`, where it pads with the same) */
const moveSplat: Rule = (node, b) => {
  const [x] = node.inputs, value = x && splatOf(x);
  if (value === undefined || !isMovement(node.op) || node.inputs.length !== 1) return undefined;
  if (node.op === "pad" && value !== (node.attrs.value ?? 0)) return undefined;
  return b.constant(value, node.type);
};

/** reduce(x, axes of size 1) = x; other axes keep only those that reduce */
const reduceUnits: Rule = (node, b) => {
  const [x] = node.inputs;
  if ((node.op !== "sum" && node.op !== "max" && node.op !== "min") || !x) return undefined;
  const axes = numbersAttr(node.attrs, "axes"), real = axes.filter((axis) => x.type.shape[axis] !== 1);
  if (real.length === axes.length) return undefined;
  return real.length === 0 ? x : b.make(node.op, [x], { axes: real });
};

/** All of the above. */
export const MOVEMENT_RULES: readonly Rule[] = [
  moveSplat,
  reshapeTwice,
  transposeTwice,
  transposeOfUnits,
  broadcastTwice,
  broadcastOfUnits,
  sliceTwice,
  sliceOfConcat,
  sliceOfPad,
  concatOfOne,
  padByNothing,
  reduceUnits,
];
