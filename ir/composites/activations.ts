/** Activation functions and softmax, as ordinary nodes. */
import type { Builder } from "../builder.ts";
import type { Node } from "../node.ts";

/** The sigmoid linear unit, `y = x · sigmoid(x)`. */
export const silu = (b: Builder, x: Node): Node => b.mul(x, b.sigmoid(x));

/** `y = e^(x - m) / Σ e^(x - m)` along one axis; m, the largest x, keeps the exponentials finite. */
export function softmax(b: Builder, x: Node, axis: number): Node {
  const exponentials = b.exp(b.sub(x, b.max(x, [axis])));
  return b.div(exponentials, b.sum(exponentials, [axis]));
}

/** `y = x - m - ln Σ e^(x - m)` along one axis, m the largest x: the logarithm of `softmax` without its underflow. */
export function logSoftmax(b: Builder, x: Node, axis: number): Node {
  const shifted = b.sub(x, b.max(x, [axis]));
  return b.sub(shifted, b.log(b.sum(b.exp(shifted), [axis])));
}
