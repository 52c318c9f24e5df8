/** @file Marks what later programs still need of the checkpoint: biases, norms, embeddings, weights without a master. */
import { type Graph, nameOf, type Node } from "../../ir/node.ts";
import { isMovement } from "../../ir/ops.ts";
import { rewrite } from "../../ir/rewrite.ts";

/**
 * Inserts `hold(x, checkpoint, name)` around every value that only the checkpoint decides, that a program of a later time
 * uses, and that no hold covers yet, so that `stage` can cut there. Movements on the way to the use stay in the later
 * program: a bias is stored as the vector that it is, not broadcast over tokens. A hold is named after the parameter behind
 * it; where several are, after the largest of them, and where a name is taken already, `<name>.2` and so on.
 */
export function holdParameters(graph: Graph): Graph {
  const held = heldValues(graph), taken = new Set(graph.nodes.filter(({ op }) => op === "hold").map(nameOf));
  const names = new Map<Node, string>();
  for (const node of graph.nodes) {
    if (!held.has(node)) continue;
    const name = freeName(mainParameter(node), taken);
    taken.add(name);
    names.set(node, name);
  }
  if (names.size === 0) return graph;
  // The walk sees rewritten nodes; the i-th one stands for the i-th of the graph.
  let at = 0;
  return rewrite(graph, (node, b) => {
    const original = graph.nodes[at++] as Node, name = names.get(original);
    return name === undefined ? undefined : b.hold(node, "checkpoint", name);
  });
}

/** How a value hangs on the checkpoint. */
type Cover =
  /** Constants only. */
  | "free"
  /** Checkpoint parameters that no hold covers are all there is behind it. */
  | "raw"
  /** Only the checkpoint is behind it, at least partly behind holds. */
  | "held"
  /** Something of a later time is behind it. */
  | "late";

function heldValues(graph: Graph): ReadonlySet<Node> {
  const covers = new Map<Node, Cover>(), held = new Set<Node>(), demanded = new Set<Node>();
  for (const node of graph.nodes) covers.set(node, coverOf(node, node.inputs.map((x) => covers.get(x) ?? "free")));
  const hold = (node: Node): void => {
    // Movements on the way to the use are left to the user.
    const source = isMovement(node.op) && node.inputs.length === 1 ? node.inputs[0] : undefined;
    if (source) hold(source);
    else held.add(node);
  };
  // Everything that programs after the first compute; what lies behind checkpoint holds is the first one's own business.
  const stack = graph.outputs.map(({ node }) => node);
  for (let node = stack.pop(); node; node = stack.pop()) {
    if (demanded.has(node)) continue;
    demanded.add(node);
    if (covers.get(node) === "raw") hold(node);
    else if (!isCheckpointHold(node)) stack.push(...node.inputs);
  }
  return held;
}

function coverOf(node: Node, inputs: readonly Cover[]): Cover {
  if (node.op === "input") return "late";
  if (node.op === "param") return node.attrs.time === "checkpoint" ? "raw" : "late";
  if (node.op === "hold") return node.attrs.time === "checkpoint" ? "held" : "late";
  if (inputs.includes("late")) return "late";
  if (inputs.includes("held")) return "held";
  return inputs.includes("raw") ? "raw" : "free";
}

const isCheckpointHold = (node: Node): boolean => node.op === "hold" && node.attrs.time === "checkpoint";

/** Name of the largest parameter behind a value; of equally large ones the first. */
function mainParameter(root: Node): string {
  let best: Node | undefined;
  const seen = new Set<Node>(), stack = [root];
  const size = (node: Node) => node.type.shape.reduce<number>((n, dim) => n * Number(dim), 1);
  for (let node = stack.pop(); node; node = stack.pop()) {
    if (seen.has(node)) continue;
    seen.add(node);
    if (node.op === "param" && (!best || size(node) > size(best))) best = node;
    stack.push(...[...node.inputs].reverse());
  }
  if (!best) throw new Error(`Internal error in holdParameters: no parameter behind ${root.op}`);
  return nameOf(best);
}

function freeName(name: string, taken: ReadonlySet<string>): string {
  for (let i = 1;; i++) {
    const candidate = i === 1 ? name : `${name}.${i}`;
    if (!taken.has(candidate)) return candidate;
  }
}
