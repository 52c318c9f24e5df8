/** Questions about values that several structure passes ask. */
import { isMap } from "../../../ir/ops.ts";
import type { Graph, Node } from "../../../ir/node.ts";

const checkpointTime = new WeakMap<Node, boolean>();

/** Whether a value is known once the checkpoint is: it depends on nothing but constants and parameters of that time. */
export function isCheckpointTime(root: Node): boolean {
  // An explicit stack, as everywhere: graphs are deeper than the call stack likes.
  const stack = [root];
  for (let node = stack.at(-1); node; node = stack.at(-1)) {
    const open = node.inputs.filter((input) => !checkpointTime.has(input));
    if (open.length > 0 && node.op !== "input") {
      stack.push(...open);
      continue;
    }
    stack.pop();
    const known = node.op === "param" ? node.attrs.time === "checkpoint" : node.op !== "input";
    checkpointTime.set(node, known && node.inputs.every((input) => checkpointTime.get(input)));
  }
  return checkpointTime.get(root) ?? false;
}

/** The value of a constant that repeats one number, otherwise `undefined`. */
export function splatOf(node: Node): number | undefined {
  const values = node.op === "constant" ? node.attrs.values : undefined;
  return Array.isArray(values) && values.length === 1 && typeof values[0] === "number" ? values[0] : undefined;
}

/** Whether all values along `axis` are provably equal. */
export function isConstantAlong(node: Node, axis: number): boolean {
  if (node.type.shape[axis] === 1 || splatOf(node) !== undefined) return true;
  if (node.op === "iota") return node.attrs.axis !== axis;
  if (node.op === "broadcast") {
    const [x] = node.inputs, inner = axis - node.type.shape.length + (x?.type.shape.length ?? 0);
    return x !== undefined && (inner < 0 || isConstantAlong(x, inner));
  }
  return isMap(node.op) && node.inputs.every((input) => isConstantAlong(input, axis));
}

/** The nodes of one op that are computed anew for every token. */
export const tokenTime = (graph: Graph, op: Node["op"]): readonly Node[] =>
  graph.nodes.filter((node) => node.op === op && !isCheckpointTime(node));
