/** Normalisations, as ordinary nodes. */
import type { Builder } from "../builder.ts";
import { concreteDim } from "../dim.ts";
import type { Node } from "../node.ts";

/**
 * Root-mean-square normalisation along the last axis: `y = x / sqrt(mean(x²) + eps) · gain` (Zhang and Sennrich, "Root mean
 * square layer normalization", 2019).
 *
 * @param x f32 with a concrete last axis of n values
 * @param gain f32[n]; absent for a gain of one
 */
export function rmsNorm(b: Builder, x: Node, eps: number, gain?: Node): Node {
  const axis = x.type.shape.length - 1, count = concreteDim(x.type.shape[axis] ?? 1);
  const meanSquare = b.mul(b.sum(b.mul(x, x), [axis]), 1 / count);
  const normalised = b.div(x, b.sqrt(b.add(meanSquare, eps)));
  return gain ? b.mul(normalised, gain) : normalised;
}
