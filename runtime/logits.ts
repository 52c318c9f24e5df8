/** @file The last call of a language model, reduced to what is asked of it: logits of one token, or scores of many. */
import { createBuilder } from "../ir/builder.ts";
import { divergenceOf, logProbabilities } from "../ir/composites/divergence.ts";
import { memoOf } from "../ir/memo.ts";
import { type Graph, graphOf, leavesOf, nameOf, type Node } from "../ir/node.ts";
import { inline } from "../ir/rewrite.ts";
import { bindSymbols } from "../ir/symbols.ts";
import { tensorType } from "../ir/types.ts";

/** Input i32[1,1] of `oneTokenHead`: which of the T tokens. */
export const TOKEN_INPUT = "token";

/**
 * The head for one token of one sequence: its inputs [1,T,…], `token` i32[1,1], and the logits of that token alone.
 *
 * @param head a graph whose inputs are f32[B,T,…] and which treats every token on its own
 * @returns a graph with the symbol T and one output, `logits` f32[1,1,V]
 */
export function oneTokenHead(head: Graph): Graph {
  const b = createBuilder(), single = bindSymbols(head, { B: 1, T: 1 }), many = bindSymbols(head, { B: 1 });
  const token = b.input(TOKEN_INPUT, tensorType("i32", [1, 1]));
  const inputs = new Map(leavesOf(many, "input").map((node) => [nameOf(node), node.type]));
  const [logits] = Object.values(inline(b, single, (node) => {
    const type = node.op === "input" ? inputs.get(nameOf(node)) : undefined;
    if (!type) return undefined;
    const rows = b.reshape(b.input(nameOf(node), type), type.shape.slice(1));
    return b.gather(rows, token);
  }));
  return graphOf({ logits: logits as Node });
}

/** The head for one token, made once. */
export const oneTokenHeadOf = memoOf(oneTokenHead);

/** Leaves of the reference model in `scoreGraph` are called this and their name. */
export const REFERENCE_PREFIX = "reference.";
/** Outputs of `scoreGraph`. */
export const SCORES = ["loss", "divergence", "excess"] as const;
/** Input i32[B,T] of `scoreGraph`: the token that follows each token. */
export const NEXT_INPUT = "next";

/**
 * Two heads fused with what is measured on their logits, which are never stored: for every token the negative
 * log-likelihood -ln p(next) of the model, and the divergence KL(reference ‖ model) = Σ_v p_ref(v)·(ln p_ref(v) - ln p(v)) over
 * the vocabulary; and the excess ln p_ref(next) - ln p(next), by which the model's likelihood is below the reference's.
 *
 * @param head the model's head, logits f32[B,T,V]
 * @param reference the head that it is compared with; its leaves get `REFERENCE_PREFIX`
 * @returns outputs `loss`, `divergence` and `excess`, f32[B,T]
 */
export function scoreGraph(head: Graph, reference: Graph): Graph {
  const b = createBuilder();
  const model = logProbabilities(b, onlyOutput(inline(b, head, () => undefined)));
  const original = logProbabilities(
    b,
    onlyOutput(inline(b, reference, (node) => {
      if (node.op === "param" || node.op === "input") {
        return b.make(node.op, [], { ...node.attrs, name: REFERENCE_PREFIX + nameOf(node) });
      }
      return undefined;
    })),
  );
  const { shape } = model.type, [batch = 1, tokens = 1] = shape;
  const next = b.reshape(b.input(NEXT_INPUT, tensorType("i32", [batch, tokens])), [batch, tokens, 1]);
  const hit = b.compare(b.broadcast(next, shape), b.iota("i32", shape, 2), "eq");
  const perToken = (x: Node) => b.reshape(b.sum(x, [2]), [batch, tokens]);
  const scores: Readonly<Record<typeof SCORES[number], Node>> = {
    loss: b.mul(perToken(b.select(hit, model, 0)), -1),
    divergence: b.reshape(divergenceOf(b, original, model), [batch, tokens]),
    excess: perToken(b.select(hit, b.sub(original, model), 0)),
  };
  return graphOf(scores);
}

function onlyOutput(outputs: Readonly<Record<string, Node>>): Node {
  const [first, ...others] = Object.values(outputs);
  if (first && others.length === 0) return first;
  throw new TypeError(`Expected a head with one output but found ${Object.keys(outputs).join(", ") || "none"}`);
}
