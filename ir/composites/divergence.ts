/** Distributions over the last axis, and how far apart two of them are. */
import type { Builder } from "../builder.ts";
import type { Node } from "../node.ts";

/** ln p of what logits say, over the last axis: x - max x - ln Σ exp(x - max x). */
export function logProbabilities(b: Builder, logits: Node): Node {
  const last = logits.type.shape.length - 1, shifted = b.sub(logits, b.max(logits, [last]));
  return b.sub(shifted, b.log(b.sum(b.exp(shifted), [last])));
}

/**
 * KL(original ‖ model) = Σ_v p(v)·(ln p(v) - ln q(v)) over the last axis, which keeps length 1, in nats.
 *
 * @param original ln p, as `logProbabilities` gives it
 * @param model ln q, of the same shape
 */
export const divergenceOf = (b: Builder, original: Node, model: Node): Node =>
  b.sum(b.mul(b.exp(original), b.sub(original, model)), [original.type.shape.length - 1]);
