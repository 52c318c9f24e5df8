/** Reverse-mode differentiation from the gradients of the op table. The result is an ordinary graph. */
import { type Builder, createBuilder } from "./builder.ts";
import { type Graph, type Node, usersOf } from "./node.ts";
import { recordOf } from "./ops.ts";
import { isFloat } from "./types.ts";

/**
 * Gradients of Σ ⟨cotangent, output⟩ in the nodes `wrt`, as nodes of `b`.
 *
 * @param graph the program to differentiate
 * @param cotangents gradient of each output that has one, by output name; of the outputs' types
 * @param wrt nodes of `graph` (parameters, inputs or anything else)
 * @returns one gradient per node of `wrt`, a zero constant where nothing flows
 */
export function gradients(
  b: Builder,
  graph: Graph,
  cotangents: Readonly<Record<string, Node>>,
  wrt: readonly Node[],
): readonly Node[] {
  const needed = ancestorsOf(graph, wrt);
  const sums = new Map<Node, Node>();
  const accumulate = (node: Node, gradient: Node) => {
    const sum = sums.get(node);
    sums.set(node, sum ? b.add(sum, gradient) : gradient);
  };
  for (const { name, node } of graph.outputs) {
    const cotangent = cotangents[name];
    if (cotangent) accumulate(node, b.adopt(cotangent));
  }
  for (const node of [...graph.nodes].reverse()) {
    const dy = sums.get(node);
    if (!dy || !needed.has(node) || node.inputs.length === 0) continue;
    const { vjp } = recordOf(node.op);
    if (!vjp) throw new TypeError(`Cannot differentiate ${node.op}: it has no gradient`);
    const local = b.adopt(node);
    vjp(b, local, dy).forEach((gradient, i) => {
      const input = node.inputs[i];
      if (gradient && input && needed.has(input)) accumulate(input, gradient);
    });
  }
  return wrt.map((node) => sums.get(node) ?? b.constant(0, node.type));
}

/** Gradients of the scalar output `loss` in the nodes `wrt`; see `gradients`. */
export function lossGradients(b: Builder, graph: Graph, loss: string, wrt: readonly Node[]): readonly Node[] {
  const output = graph.outputs.find(({ name }) => name === loss);
  if (!output) {
    throw new RangeError(`Expected an output named "${loss}" but found ${graph.outputs.map((o) => o.name).join(", ")}`);
  }
  return gradients(b, graph, { [loss]: b.constant(1, output.node.type) }, wrt);
}

/**
 * A vector-Jacobian program of a function: its inputs and `d.<output>` of every floating-point output in, gradients called
 * `names` out. The forward is recomputed.
 */
export function vjpGraph(graph: Graph, wrt: readonly Node[], names: readonly string[]): Readonly<Record<string, Node>> {
  const b = createBuilder();
  const floating = graph.outputs.filter(({ node }) => isFloat(node.type.dtype)); // integers have no gradient
  const cotangents = Object.fromEntries(floating.map(({ name, node }) => [name, b.input(`d.${name}`, node.type)]));
  return Object.fromEntries(gradients(b, graph, cotangents, wrt).map((node, i) => [names[i] ?? `d.${i}`, node]));
}

/** Nodes through which a gradient must pass to reach one of `targets`: the targets and all that depends on them. */
function ancestorsOf(graph: Graph, targets: readonly Node[]): ReadonlySet<Node> {
  const users = usersOf(graph), reached = new Set<Node>(), stack = [...targets];
  for (let node = stack.pop(); node; node = stack.pop()) {
    if (reached.has(node)) continue;
    reached.add(node);
    stack.push(...users.get(node) ?? []);
  }
  return reached;
}
