/** The program of one optimiser step of one bit group: forward at one width, loss, gradients added to what is there. */
import { gradients } from "../../ir/autodiff.ts";
import { createBuilder } from "../../ir/builder.ts";
import { type Graph, graphOf, leavesOf, nameOf, type Node } from "../../ir/node.ts";
import { inline, rewrite } from "../../ir/rewrite.ts";
import { tensorType } from "../../ir/types.ts";
import { type BlockLoss, LOSS_LEAVES } from "./block_losses.ts";

/** Names of what a train program takes beside the function's own leaves. */
export const TRAIN_LEAVES = {
  ...LOSS_LEAVES,
  /** Factor of this group's loss in the gradients, f32[1]. */
  lossWeight: "loss.weight",
  /** Sum of losses so far, f32[1]; the program adds to it. */
  lossSum: "loss.sum",
} as const;

const isClip = (name: string) => /\.clip\.(high|low)$/.test(name);
const isFactor = (name: string) => /\.adapter\.[ab]$/.test(name);

/** Prefix of the leaf, and of the output, in which the gradient of a learned leaf is summed up. */
export const gradientName = (name: string): string => `gradient.${name}`;

/**
 * The function with its learned parameters as inputs, as they lie in the flat array: A as [r,q], B transposed as [r,p], so that a
 * prefix of columns is a prefix of memory, and clips as they are.
 */
export function withLearnedInputs(graph: Graph): Graph {
  return rewrite(graph, (node, b) => {
    if (node.op !== "param" || !isLearned(nameOf(node))) return undefined;
    const name = nameOf(node), [rows = 1, rank = 1] = node.type.shape;
    return name.endsWith(".adapter.b")
      ? b.transpose(b.input(name, tensorType("f32", [rank, rows])), [1, 0])
      : b.input(name, node.type);
  });
}

/** Whether an input of `withLearnedInputs` is something that is learned. */
export const isLearned = (name: string): boolean => isClip(name) || isFactor(name);

/**
 * Loss and gradients of a function with learned inputs (concrete shapes).
 *
 * Outputs: `loss.sum` and `gradient.<learned>` for every learned input, each the leaf of that name plus this step's share.
 *
 * @param graph a function with one output [B,T,C], from `withLearnedInputs`
 */
export function trainProgram(graph: Graph, lossOf: BlockLoss): Graph {
  const b = createBuilder();
  const [output, ...others] = graph.outputs;
  if (!output || others.length > 0) {
    throw new TypeError(`Expected a function with one output but found ${graph.outputs.length}`);
  }
  const loss = lossOf(b, inline(b, graph, () => undefined)[output.name] as Node);
  const learned = leavesOf(graph, "input").filter((node) => isLearned(nameOf(node))).map((node) => b.adopt(node));
  const lossWeight = b.reshape(b.input(TRAIN_LEAVES.lossWeight, tensorType("f32", [1])), loss.type.shape);
  const slopes = gradients(b, graphOf({ loss }), { loss: lossWeight }, learned);
  const sums = learned.map((node, i): [string, Node] => {
    const name = gradientName(nameOf(node));
    return [name, b.add(b.input(name, node.type), slopes[i] as Node)];
  });
  const total = b.add(b.input(TRAIN_LEAVES.lossSum, tensorType("f32", [1])), b.reshape(loss, [1]));
  return graphOf({ [TRAIN_LEAVES.lossSum]: total, ...Object.fromEntries(sums) });
}

/** The loss alone, added to `loss.sum`: what each group starts from. */
export function lossProgram(graph: Graph, lossOf: BlockLoss): Graph {
  const b = createBuilder(), loss = lossOf(b, Object.values(inline(b, graph, () => undefined))[0] as Node);
  return graphOf({
    [TRAIN_LEAVES.lossSum]: b.add(b.input(TRAIN_LEAVES.lossSum, tensorType("f32", [1])), b.reshape(loss, [1])),
  });
}

/** Which outputs of a train program overwrite which leaves. */
export const trainInPlace = (graph: Graph): Readonly<Record<string, string>> =>
  Object.fromEntries(graph.outputs.map(({ name }) => [name, name]));
