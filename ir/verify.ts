/**
 * What must hold of every graph, checked between passes. A violation is a bug in whatever made the graph, so the error is an
 * internal one and quotes the line of the offending node.
 *
 * 1. Order: operands stand in the graph, before their users; no node stands there twice.
 * 2. Operations: number of operands and attributes fit the op table, and the type is the inferred one.
 * 3. Names: leaves (`param` and `input` together), holds and outputs each have a name of their own. Equal leaves of one
 *    builder are one node, so two nodes of one name differ in type, kind or time.
 * 4. State: a cache that `update` overwrites has no other user and is no output.
 * 5. Where asked for: no symbol is left.
 */
import { checkForm } from "./builder.ts";
import { type Graph, nameOf, type Node, usersOf } from "./node.ts";
import { recordOf } from "./ops.ts";
import { printNode } from "./print.ts";
import { typeText } from "./types.ts";

/** What else to demand. */
export interface VerifyOptions {
  /** Every dimension is a number: kernels can be made. */
  readonly concrete?: boolean;
}

/**
 * Checks a graph.
 *
 * @param where what the graph is and when it is checked, for the error: `function "block" after fuse-norms`
 * @throws {Error} That names the rule, what was found and the line of the node.
 */
export function verify(graph: Graph, where = "a graph", { concrete = false }: VerifyOptions = {}): void {
  const fail: Fail = (node, problem) => {
    throw new Error(`Internal error in ${where}: ${problem}; the node is "${printNode(graph, node)}"`);
  };
  verifyOrder(graph, fail);
  for (const node of graph.nodes) verifyNode(node, fail);
  verifyNames(graph, where, fail);
  verifyState(graph, fail);
  if (concrete) {
    for (const node of graph.nodes) {
      const symbol = node.type.shape.find((dim) => typeof dim === "string");
      if (symbol !== undefined) fail(node, `expected concrete dimensions but found the symbolic "${symbol}"`);
    }
  }
}

type Fail = (node: Node, problem: string) => never;

function verifyOrder(graph: Graph, fail: Fail): void {
  const members = new Set(graph.nodes), seen = new Set<Node>();
  for (const node of graph.nodes) {
    if (seen.has(node)) fail(node, "expected every node once but found it again");
    node.inputs.forEach((input, i) => {
      if (seen.has(input)) return;
      const found = members.has(input)
        ? "later in the order"
        : `not in the graph: ${input.op} : ${typeText(input.type)}`;
      fail(node, `expected operands before their users but found operand ${i} ${found}`);
    });
    seen.add(node);
  }
  for (const { name, node } of graph.outputs) {
    if (!seen.has(node)) fail(node, `expected the output "${name}" to be in the graph but found it outside`);
  }
}

function verifyNode(node: Node, fail: Fail): void {
  let inferred = "";
  try {
    checkForm(node.op, node.inputs, node.attrs);
    inferred = typeText(recordOf(node.op).infer(node.inputs.map(({ type }) => type), node.attrs));
  } catch (error) {
    fail(node, error instanceof Error ? error.message : String(error));
  }
  if (inferred !== typeText(node.type)) fail(node, `expected type ${inferred} but found ${typeText(node.type)}`);
}

function verifyNames(graph: Graph, where: string, fail: Fail): void {
  const leaves = new Set<string>(), holds = new Set<string>(), outputs = new Set<string>();
  for (const node of graph.nodes) {
    const names = node.op === "hold" ? holds : node.op === "param" || node.op === "input" ? leaves : undefined;
    if (names?.has(nameOf(node))) {
      const kind = node.op === "hold" ? "hold" : "leaf";
      fail(node, `expected one ${kind} of each name but found a second one called "${nameOf(node)}"`);
    }
    names?.add(nameOf(node));
  }
  for (const { name } of graph.outputs) {
    if (outputs.has(name)) {
      throw new Error(`Internal error in ${where}: expected one output of each name but found "${name}" twice`);
    }
    outputs.add(name);
  }
}

function verifyState(graph: Graph, fail: Fail): void {
  const users = usersOf(graph);
  for (const node of graph.nodes) {
    const cache = node.op === "update" ? node.inputs[0] : undefined;
    if (!cache) continue;
    const other = users.get(cache)?.find((user) => user !== node);
    const twice = node.inputs.lastIndexOf(cache) > 0 ? node : undefined;
    const user = other ?? twice;
    if (user) fail(user, `expected no use of a cache besides its "update" but found one in ${user.op}`);
    const output = graph.outputs.find((result) => result.node === cache);
    if (output) {
      fail(node, `expected no use of a cache besides its "update" but found it as the output "${output.name}"`);
    }
  }
}
