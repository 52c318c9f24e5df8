/** What a block's output is held against. Both losses weight tokens, and are sums over tokens and means over sequences. */
import type { Builder } from "../../ir/builder.ts";
import { divergenceOf, logProbabilities } from "../../ir/composites/divergence.ts";
import { type Graph, nameOf, type Node } from "../../ir/node.ts";
import { inline } from "../../ir/rewrite.ts";
import { bindSymbols } from "../../ir/symbols.ts";
import { tensorType } from "../../ir/types.ts";
import { ENDING_INPUT } from "./ending.ts";

/** Leaves of a loss. */
export const LOSS_LEAVES = {
  /** What the original block puts out, f32[B,T,C]. */
  target: "target",
  /** Weight of each token in the loss, f32[B,T,1]; 0 for padding. */
  tokenWeights: "token.weights",
  /** Which tokens of the B·T have their logits looked at, i32[1,n], where not all have. */
  rows: "logits.rows",
} as const;

/** Logits that a step computes at most, which take 256 MiB: some four times as much is alive at a time. */
const MOST_LOGITS = 2 ** 26;

/** How many tokens of a step have their logits looked at. */
export const rowsOfLogits = (tokens: number, vocabulary: number): number =>
  Math.min(tokens, Math.max(1, Math.floor(MOST_LOGITS / vocabulary)));

/** Which ones, evenly spread; others in the next turn, and all of them equally often. */
export const rowsAt = (turn: number, count: number, tokens: number): Int32Array =>
  Int32Array.from({ length: count }, (_, i) => (Math.floor(i * tokens / count) + turn) % tokens);

/** The loss of a block's output f32[B,T,C], as f32 of one element. */
export type BlockLoss = (b: Builder, output: Node) => Node;

/** That of the published code: mean over batch and channels of the sum over tokens of |P - Y|^p. */
export const reconstructionLoss = (power: 1 | 2): BlockLoss => (b, output) => {
  const { target, weights } = heldAgainst(b, output), [batch, , channels] = output.type.shape;
  const difference = b.sub(output, target);
  const distance = power === 1 ? b.abs(difference) : b.mul(difference, difference);
  return b.mul(b.sum(b.mul(distance, weights), [0, 1, 2]), 1 / (Number(batch) * Number(channels)));
};

/**
 * The divergence of the logits that follow the last block's output from those that follow the original one's: mean over the batch of
 * the sum over tokens, in nats. Of more tokens than `most` it is estimated by so many of them (`LOSS_LEAVES.rows`).
 *
 * @param ending an `Ending`'s graph, which treats every token on its own
 * @param most as many as this have their logits computed; default: what `rowsOfLogits` says
 */
export const logitsLoss = (ending: Graph, most?: number): BlockLoss => (b, output) => {
  const { target, weights } = heldAgainst(b, output),
    [batch = 1, tokens = 1, channels = 1] = output.type.shape.map(Number);
  const vocabulary = Number(ending.outputs[0]?.node.type.shape.at(-1)), all = batch * tokens;
  const count = Math.min(all, most ?? rowsOfLogits(all, vocabulary)), isPart = count < all;
  const rows = isPart ? b.input(LOSS_LEAVES.rows, tensorType("i32", [1, count])) : undefined;
  const taken = (x: Node, width: number) => rows ? b.gather(b.reshape(x, [all, width]), rows) : x;
  const bound = bindSymbols(ending, isPart ? { B: 1, T: count } : { B: batch, T: tokens });
  const [original, model] = [target, output].map((hidden) => {
    const from = taken(hidden, channels);
    const end = inline(b, bound, (node) => node.op === "input" && nameOf(node) === ENDING_INPUT ? from : undefined);
    return logProbabilities(b, Object.values(end)[0] as Node);
  }) as [Node, Node];
  const divergences = b.mul(divergenceOf(b, original, model), taken(weights, 1));
  return b.mul(b.sum(divergences, [0, 1, 2]), all / count / batch);
};

function heldAgainst(b: Builder, output: Node): { target: Node; weights: Node } {
  const [batch = 1, tokens = 1] = output.type.shape;
  return {
    target: b.input(LOSS_LEAVES.target, output.type),
    weights: b.input(LOSS_LEAVES.tokenWeights, tensorType("f32", [batch, tokens, 1])),
  };
}
