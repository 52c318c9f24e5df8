/** The textual form of graphs: what golden tests compare, errors quote and `inspect` shows. `parse.ts` is the inverse. */
import { attrsText, nameText } from "./attr_text.ts";
import type { Graph, Node } from "./node.ts";
import { typeText } from "./types.ts";

/**
 * The graph, one node per line, operands before users, numbered in that order, and the outputs in the last line:
 *
 *     %0 = input {name="x", type="f32[2,4]"} : f32[2,4]
 *     %1 = sum %0 {axes=[1]} : f32[2,1]
 *     return total=%1
 */
export function print(graph: Graph): string {
  const ids = numbersOf(graph);
  const results = graph.outputs.map(({ name, node }) => ` ${nameText(name)}=${idText(ids, node)}`).join("");
  return [...graph.nodes.map((node) => nodeText(node, ids)), `return${results}`].join("\n") + "\n";
}

/** The line of one node as it stands in the text of its graph. */
export const printNode = (graph: Graph, node: Node): string => nodeText(node, numbersOf(graph));

/** A node's number is its place in the graph. */
const numbersOf = (graph: Graph): ReadonlyMap<Node, number> => new Map(graph.nodes.map((node, i) => [node, i]));

/** `%?` marks a node that is not in the graph, which only the texts of errors show. */
const idText = (ids: ReadonlyMap<Node, number>, node: Node): string => `%${ids.get(node) ?? "?"}`;

function nodeText(node: Node, ids: ReadonlyMap<Node, number>): string {
  const call = [node.op, ...node.inputs.map((input) => idText(ids, input))].join(" "), attrs = attrsText(node.attrs);
  return `${idText(ids, node)} = ${call}${attrs ? ` {${attrs}}` : ""} : ${typeText(node.type)}`;
}
