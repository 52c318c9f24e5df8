/**
 * @file Linears, found by structure: a `dot` of something known per token with a value that only the checkpoint decides,
 * named after the one matrix parameter `….weight` behind that value. What lies between parameter and `dot` (scales,
 * rotations, the master, sites) does not matter, and no model family is known here.
 */
import type { Builder } from "../../../ir/builder.ts";
import { type Dim, multiplyDims } from "../../../ir/dim.ts";
import { mapFunctions, type Module } from "../../../ir/module.ts";
import { type Graph, nameOf, type Node } from "../../../ir/node.ts";
import { dotAxes } from "../../../ir/ops/contractions.ts";
import { rewrite } from "../../../ir/rewrite.ts";

/** A linear layer: y = x·Wᵀ with x [tokens…, q] and W [p, q]. */
export interface Linear {
  readonly dot: Node;
  /** Name of the weight's parameter. */
  readonly name: string;
  /** The operands without the reshapes in front of them. */
  readonly source: Node;
  readonly weight: Node;
  /** Shape of the source as the dot reads it, contracted axes merged: [tokens…, q]. */
  readonly sourceShape: readonly Dim[];
  readonly rows: number;
  readonly columns: number;
}

/** What the leaves behind a value say about it. */
interface Origin {
  /** Whether only parameters of time checkpoint and constants are behind it. */
  readonly fixed: boolean;
  /** Names of the matrices called `….weight` behind it. */
  readonly weights: ReadonlySet<string>;
}

/** Finds what is behind the nodes of one graph; remembers what it has seen. */
function originFinder(): (node: Node) => Origin {
  const origins = new Map<Node, Origin>();
  return (root) => {
    const stack = [root];
    for (let node = stack.at(-1); node; node = stack.at(-1)) {
      const missing = origins.has(node) ? [] : node.inputs.filter((input) => !origins.has(input));
      if (missing.length > 0) stack.push(...missing);
      else {
        origins.set(node, origins.get(node) ?? combine(node, node.inputs.map((input) => origins.get(input) as Origin)));
        stack.pop();
      }
    }
    return origins.get(root) as Origin;
  };
}

/** Names the one matrix parameter `….weight` behind a value that only the checkpoint decides. */
export function weightBehind(originOf = originFinder()): (node: Node) => string | undefined {
  return (node) => {
    const { fixed, weights } = originOf(node), [name, ...others] = weights;
    return fixed && others.length === 0 ? name : undefined;
  };
}

/** Recognises linears among the nodes of one graph; remembers what it has seen. */
export function linearFinder(): (node: Node) => Linear | undefined {
  const originOf = originFinder(), nameBehind = weightBehind(originOf);
  return (node) => {
    if (node.op !== "dot") return undefined;
    const [x, w] = node.inputs as [Node, Node], name = nameBehind(w);
    if (name === undefined || originOf(x).fixed) return undefined;
    return asLinear(node, x, w, name);
  };
}

function combine(node: Node, inputs: readonly Origin[]): Origin {
  if (node.op === "input") return { fixed: false, weights: new Set() };
  if (node.op === "param") {
    const matrix = node.type.shape.length === 2 && nameOf(node).endsWith(".weight");
    return { fixed: node.attrs.time === "checkpoint", weights: new Set(matrix ? [nameOf(node)] : []) };
  }
  return {
    fixed: inputs.every(({ fixed }) => fixed),
    weights: new Set(inputs.flatMap(({ weights }) => [...weights])),
  };
}

/** The parts of the linear, if both operands end in the contracted axes, in the same order. */
function asLinear(dot: Node, x: Node, w: Node, name: string): Linear | undefined {
  const axes = dotAxes([x.type, w.type], dot.attrs);
  const last = (list: readonly number[], rank: number) => list.every((axis, i) => axis === rank - list.length + i);
  const fits = axes.lhsBatch.length === 0 && last(axes.lhsContract, x.type.shape.length) &&
    last(axes.rhsContract, w.type.shape.length);
  const dims = (node: Node, list: readonly number[]) => list.map((axis) => node.type.shape[axis] ?? 1);
  const rows = multiplyDims([1, ...dims(w, axes.rhsFree)]), columns = multiplyDims([1, ...dims(w, axes.rhsContract)]);
  if (!fits || typeof rows !== "number" || typeof columns !== "number") return undefined;
  const sourceShape = [...dims(x, axes.lhsFree), columns];
  return { dot, name, source: withoutReshapes(x), weight: withoutReshapes(w), sourceShape, rows, columns };
}

/** The value whose elements, in the same order, `node` shows under another shape. */
export function withoutReshapes(node: Node): Node {
  let current = node;
  while (current.op === "reshape" && current.inputs[0]) current = current.inputs[0];
  return current;
}

/** Every linear of a graph, in topological order. */
export function linearsOf(graph: Graph): readonly Linear[] {
  const find = linearFinder();
  return graph.nodes.flatMap((node) => find(node) ?? []);
}

/** Replaces the weight [p,q] of every linear by what `change` makes of it. */
export function mapWeights(graph: Graph, change: (b: Builder, weight: Node, linear: Linear) => Node): Graph {
  const find = linearFinder();
  return rewrite(graph, (node, b) => {
    const linear = find(node);
    if (!linear) return undefined;
    const [x, w] = node.inputs as [Node, Node];
    const changed = change(b, b.reshape(linear.weight, [linear.rows, linear.columns]), linear);
    return b.make("dot", [x, b.reshape(withoutReshapes(changed), w.type.shape)], node.attrs);
  });
}

/** Functions whose linears no width changes, by name: those around the blocks of a decoder. */
export const UNQUANTIZED_FUNCTIONS: readonly string[] = ["embed", "head"];

/** Applies a graph pass to every function of the module but those in `exclude`. */
export function mapBlocks(
  module: Module,
  change: (graph: Graph) => Graph,
  exclude: readonly string[] = UNQUANTIZED_FUNCTIONS,
): Module {
  return mapFunctions(module, (graph, name) => exclude.includes(name) ? graph : change(graph));
}
