/** MB-ToMe: one input for the next block out of the outputs at one width per bit group (quept-method 5). */
import { createBuilder } from "../../ir/builder.ts";
import { type Graph, graphOf, type Node } from "../../ir/node.ts";
import { tensorType } from "../../ir/types.ts";
import type { CalibrationSettings } from "./settings.ts";
import { TRAIN_LEAVES } from "./train_program.ts";

/** Vectors shorter than this count as this long in the cosine (trap N11). */
const SHORTEST = 1e-12;

/** Names of the merge program's inputs: group g's output, and the weight per token (0: padding). */
export const MERGE_INPUTS = { group: (g: number) => `group.${g}`, tokenWeights: TRAIN_LEAVES.tokenWeights } as const;

/**
 * `merged` [B,T,C] of the outputs `group.<g>` [B,T,C], groups in the recipe's order (highest widths first).
 *
 * - `selective`: the k = ⌊top·N⌋ tokens of a sequence whose outputs at highest and lowest widths have the largest cosine keep
 *   the highest-width value; the others become the weighted average. Padding is not counted; ties go to the earlier token.
 * - `uniform`: the weighted average everywhere. (`random` and `none` need no program: they choose rows.)
 */
export function mergeProgram(
  shape: readonly [number, number, number],
  groups: number,
  { kind, top, weights }: CalibrationSettings["merge"],
): Graph {
  const b = createBuilder(), [batch, tokens] = shape;
  const outputs = Array.from({ length: groups }, (_, g) => b.input(MERGE_INPUTS.group(g), tensorType("f32", shape)));
  const total = weights.slice(0, groups).reduce((a, x) => a + x, 0);
  const average = outputs.map((x, g) => b.mul(x, (weights[g] ?? 0) / total)).reduce((sum, x) => b.add(sum, x));
  const [highest] = outputs, lowest = outputs.at(-1);
  if (!highest || !lowest || kind === "uniform") return graphOf({ merged: average });

  const valid = b.input(MERGE_INPUTS.tokenWeights, tensorType("f32", [batch, tokens, 1]));
  const length = (x: Node) => b.maximum(b.sqrt(b.sum(b.mul(x, x), [2])), SHORTEST);
  const cosine = b.div(b.sum(b.mul(lowest, highest), [2]), b.mul(length(lowest), length(highest)));
  // Padding is less alike than anything.
  const likeness = b.select(b.compare(valid, 0, "gt"), cosine, -2);
  const pair = [batch, tokens, tokens];
  const mine = b.broadcast(likeness, pair), others = b.broadcast(b.reshape(likeness, [batch, 1, tokens]), pair);
  const earlier = b.compare(b.iota("i32", pair, 2), b.iota("i32", pair, 1), "lt");
  const one = (condition: Node) => b.select(condition, b.constant(1, tensorType("f32", pair)), 0);
  const ahead = b.add(one(b.compare(others, mine, "gt")), b.mul(one(b.compare(others, mine, "eq")), one(earlier)));
  const rank = b.sum(ahead, [2]);
  const kept = b.floor(b.mul(b.sum(b.cast(b.compare(valid, 0, "gt"), "f32"), [1]), top));
  return graphOf({ merged: b.select(b.broadcast(b.compare(rank, kept, "lt"), shape), highest, average) });
}
