/** What a block's output is held against. Both losses weight tokens, and are sums over tokens and means over sequences. */
import type { Builder } from "../../ir/builder.ts";
import { divergenceOf, logProbabilities } from "../../ir/composites/divergence.ts";
import { type Graph, nameOf, type Node } from "../../ir/node.ts";
import { inline } from "../../ir/rewrite.ts";
import { tensorType } from "../../ir/types.ts";
import { ENDING_INPUT } from "./ending.ts";

/** Leaves of a loss. */
export const LOSS_LEAVES = {
  /** What the original block puts out, f32[B,T,C]. */
  target: "target",
  /** Weight of each token in the loss, f32[B,T,1]; 0 for padding. */
  tokenWeights: "token.weights",
} as const;

/** The loss of a block's output f32[B,T,C], as f32 of one element. */
export type BlockLoss = (b: Builder, output: Node) => Node;

/** That of the published code: mean over batch and channels of the sum over tokens of |P - Y|^p. */
export const reconstructionLoss = (power: 1 | 2): BlockLoss => (b, output) => {
  const { target, weights } = leavesOf(b, output), [batch, , channels] = output.type.shape;
  const difference = b.sub(output, target);
  const distance = power === 1 ? b.abs(difference) : b.mul(difference, difference);
  return b.mul(b.sum(b.mul(distance, weights), [0, 1, 2]), 1 / (Number(batch) * Number(channels)));
};

/**
 * The divergence of the logits that follow the last block's output from those that follow the original one's: mean over the batch of
 * the sum over tokens, in nats.
 *
 * @param ending an `Ending`'s graph with concrete shapes
 */
export const logitsLoss = (ending: Graph): BlockLoss => (b, output) => {
  const { target, weights } = leavesOf(b, output), [batch] = output.type.shape;
  const [original, model] = [target, output].map((hidden) => {
    const end = inline(b, ending, (node) => node.op === "input" && nameOf(node) === ENDING_INPUT ? hidden : undefined);
    return logProbabilities(b, Object.values(end)[0] as Node);
  }) as [Node, Node];
  return b.mul(b.sum(b.mul(divergenceOf(b, original, model), weights), [0, 1, 2]), 1 / Number(batch));
};

function leavesOf(b: Builder, output: Node): { target: Node; weights: Node } {
  const [batch = 1, tokens = 1] = output.type.shape;
  return {
    target: b.input(LOSS_LEAVES.target, output.type),
    weights: b.input(LOSS_LEAVES.tokenWeights, tensorType("f32", [batch, tokens, 1])),
  };
}
