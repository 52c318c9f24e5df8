/** Nodes and graphs: what a program is. Everything here is immutable data; passes build new graphs. */
import { memoOf } from "./memo.ts";
import type { OpName } from "./ops.ts";
import type { TensorType } from "./types.ts";

/** Value of one attribute. Shapes are lists, in which symbolic dimensions are strings. */
export type Attr = number | string | boolean | readonly (number | string)[];
/** Attributes of a node by name. */
export type Attrs = Readonly<Record<string, Attr>>;

/** One operation with its operands; every node has exactly one result, of type `type`. */
export interface Node {
  readonly op: OpName;
  readonly inputs: readonly Node[];
  readonly attrs: Attrs;
  readonly type: TensorType;
}

/** A named result of a graph. */
export interface Output {
  readonly name: string;
  readonly node: Node;
}

/** A program without control flow: nodes in topological order and the named results among them. */
export interface Graph {
  readonly nodes: readonly Node[];
  readonly outputs: readonly Output[];
}

/** The graph that computes the given results: reachable nodes only, operands before users, in a fixed order. */
export function graphOf(outputs: Readonly<Record<string, Node>> | readonly Output[]): Graph {
  const named: readonly Output[] = Array.isArray(outputs)
    ? outputs
    : Object.entries(outputs as Readonly<Record<string, Node>>).map(([name, node]) => ({ name, node }));
  const seen = new Set<Node>();
  const nodes: Node[] = [];
  for (const { node: root } of named) {
    // An explicit stack: graphs of train programs are deeper than the call stack likes.
    const stack: { node: Node; next: number }[] = seen.has(root) ? [] : [{ node: root, next: 0 }];
    while (stack.length > 0) {
      const top = stack[stack.length - 1] as { node: Node; next: number };
      const child = top.node.inputs[top.next++];
      if (child === undefined) {
        if (!seen.has(top.node)) {
          seen.add(top.node);
          nodes.push(top.node);
        }
        stack.pop();
      } else if (!seen.has(child)) stack.push({ node: child, next: 0 });
    }
  }
  return Object.freeze({ nodes: Object.freeze(nodes), outputs: Object.freeze([...named]) });
}

/** The result called `name`; throws with the names there are. */
export function outputNamed(graph: Graph, name: string): Node {
  const found = graph.outputs.find((output) => output.name === name);
  if (found) return found.node;
  throw new RangeError(
    `Expected an output named "${name}" but found ${graph.outputs.map((o) => `"${o.name}"`).join(", ")}`,
  );
}

/** For every node the nodes that use it (a node that uses it twice is listed twice). */
export function usersOf(graph: Graph): ReadonlyMap<Node, readonly Node[]> {
  const users = new Map<Node, Node[]>(graph.nodes.map((node) => [node, []]));
  for (const node of graph.nodes) for (const input of node.inputs) users.get(input)?.push(node);
  return users;
}

const leavesOfKind = {
  param: memoOf((graph: Graph): readonly Node[] => graph.nodes.filter(({ op }) => op === "param")),
  input: memoOf((graph: Graph): readonly Node[] => graph.nodes.filter(({ op }) => op === "input")),
};

/** Leaves of one kind, in topological order. Looked for once per graph: whoever runs programs asks at every run. */
export const leavesOf = (graph: Graph, op: "param" | "input"): readonly Node[] => leavesOfKind[op](graph);

/** The `name` attribute of a leaf, hold or site. */
export const nameOf = (node: Node): string => stringAttr(node.attrs, "name");

/** A checked reader for numeric attributes. */
export function numberAttr(attrs: Attrs, name: string): number {
  const value = attrs[name];
  if (typeof value !== "number") throw new TypeError(`Expected a number as attribute "${name}" but found ${value}`);
  return value;
}

/** A checked reader for text attributes. */
export function stringAttr(attrs: Attrs, name: string): string {
  const value = attrs[name];
  if (typeof value !== "string") throw new TypeError(`Expected text as attribute "${name}" but found ${value}`);
  return value;
}

/** A checked reader for lists of numbers (axes, offsets). */
export function numbersAttr(attrs: Attrs, name: string): readonly number[] {
  return listAttr(attrs, name).map((value) => {
    if (typeof value !== "number") throw new TypeError(`Expected numbers in attribute "${name}" but found "${value}"`);
    return value;
  });
}

/** A checked reader for lists (shapes may hold symbols). */
export function listAttr(attrs: Attrs, name: string): readonly (number | string)[] {
  const value = attrs[name];
  if (!Array.isArray(value)) throw new TypeError(`Expected a list as attribute "${name}" but found ${value}`);
  return value;
}

/** Whether a flag attribute is set; an absent flag is off. */
export const flagAttr = (attrs: Attrs, name: string): boolean => attrs[name] === true;
