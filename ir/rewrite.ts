/** Rebuilding graphs: the walk that every pass is made of. */
import { type Builder, createBuilder } from "./builder.ts";
import { type Graph, graphOf, type Node } from "./node.ts";

/** Replaces a node, given its already rewritten operands, or leaves it (`undefined`). */
export type Rule = (node: Node, b: Builder) => Node | undefined;

/**
 * Walks the graph once, operands first, and lets `rule` replace every node. The node a rule sees already has rewritten
 * operands. Returns the same graph object when nothing changed.
 */
export function rewrite(graph: Graph, rule: Rule, b: Builder = createBuilder()): Graph {
  const done = new Map<Node, Node>();
  let changed = false;
  for (const node of graph.nodes) {
    const moved = b.make(node.op, node.inputs.map((input) => done.get(input) ?? input), node.attrs);
    const result = rule(moved, b) ?? moved;
    if (result !== moved) changed = true;
    done.set(node, result);
  }
  return changed ? graphOf(graph.outputs.map(({ name, node }) => ({ name, node: done.get(node) ?? node }))) : graph;
}

/** Applies the first rule that matches, node by node, until no rule matches anywhere. */
export function rewriteToFixpoint(graph: Graph, rules: readonly Rule[], limit = 100): Graph {
  let current = graph;
  const first: Rule = (node, b) => {
    for (const rule of rules) {
      const result = rule(node, b);
      if (result && result !== node) return result;
    }
    return undefined;
  };
  for (let round = 0; round < limit; round++) {
    const next = rewrite(current, first);
    if (next === current) return current;
    current = next;
  }
  throw new Error(`Internal error in rewriteToFixpoint: rules still match after ${limit} rounds`);
}

/** Replaces leaves and other nodes by given ones (of the same type) and rebuilds what depends on them. */
export function substitute(graph: Graph, replacements: ReadonlyMap<Node, Node>, b: Builder = createBuilder()): Graph {
  const done = new Map<Node, Node>();
  for (const node of graph.nodes) {
    const given = replacements.get(node);
    done.set(node, given ? b.adopt(given) : b.make(node.op, node.inputs.map((x) => done.get(x) ?? x), node.attrs));
  }
  return graphOf(graph.outputs.map(({ name, node }) => ({ name, node: done.get(node) ?? node })));
}

/** Copies the graph's nodes into `b` with some leaves replaced, and returns the outputs by name: a function call inlined. */
export function inline(
  b: Builder,
  graph: Graph,
  leaf: (node: Node) => Node | undefined,
): Readonly<Record<string, Node>> {
  const done = new Map<Node, Node>();
  for (const node of graph.nodes) {
    const given = node.inputs.length === 0 ? leaf(node) : undefined;
    done.set(node, given ? b.adopt(given) : b.make(node.op, node.inputs.map((x) => done.get(x) ?? x), node.attrs));
  }
  return Object.fromEntries(graph.outputs.map(({ name, node }) => [name, done.get(node) ?? node]));
}
