/** Attention gradients with a bias and positions: eight operands and a result, one more than the portable number of buffers. */
import type { Builder } from "../../ir/builder.ts";
import { flagAttr, type Node } from "../../ir/node.ts";
import { windowOf } from "../../ir/ops/attention.ts";
import { tensorType } from "../../ir/types.ts";

/** A score this low has the probability 0 in f32, beside any other. WGSL has no infinities. */
const UNSEEN = -1e30;

/**
 * The same gradient with seven operands: what a query does not see, and its log-sum-exp, become part of the bias `[B,H,T,S]`, so
 * that positions are no operand and the log-sum-exp is a constant. Nothing for other gradients.
 */
export function boundsInBias(node: Node, b: Builder): Node | undefined {
  if (node.op !== "attentionGrad" || node.inputs.length < 8) return undefined;
  const [q, k, v, output, logSumExp, dy, bias, positions] = node.inputs as readonly [
    Node,
    Node,
    Node,
    Node,
    Node,
    Node,
    Node,
    Node,
  ];
  const [batch = 1, tokens = 1, heads = 1] = q.type.shape, context = k.type.shape[1] ?? 1;
  const scores = [batch, heads, tokens, context];
  const wide = (x: Node, shape: readonly (typeof batch)[]) => b.broadcast(b.reshape(x, shape), scores);
  const biasShape = bias.type.shape.length === 4 ? bias.type.shape : [1, ...bias.type.shape];
  const exponents = b.sub(wide(bias, biasShape), wide(b.transpose(logSumExp, [0, 2, 1]), [batch, heads, tokens, 1]));
  const { causal: _, window: __, positions: ___, ...attrs } = node.attrs, window = windowOf(node.attrs);
  const unseen = b.constant(UNSEEN, tensorType("f32", scores)), places = wide(positions, [batch, 1, tokens, 1]);
  const key = b.iota("i32", scores, 3);
  const upToOwn = flagAttr(node.attrs, "causal")
    ? b.select(b.compare(key, places, "le"), exponents, unseen)
    : exponents;
  const bounded = window === undefined
    ? upToOwn
    : b.select(b.compare(b.add(key, window), places, "gt"), upToOwn, unseen);
  return b.make("attentionGrad", [q, k, v, output, b.constant(0, logSumExp.type), dy, bounded], attrs);
}
