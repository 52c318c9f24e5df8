/** @file Marks where the inputs of linears are quantized: once per value, however many linears read it. */
import type { Graph, Node } from "../../../ir/node.ts";
import { rewrite } from "../../../ir/rewrite.ts";
import { linearFinder, linearsOf } from "./linears.ts";

/**
 * x -> site(x, role activation) in front of every linear, on x [tokens…, q]. All linears that read one value share one
 * site, named after what their weights' names have in common: `attention.query.weight`, `attention.key.weight`,
 * `attention.value.weight` -> `attention.input`; `mlp.down.weight` alone -> `mlp.down.input`.
 *
 * @throws {TypeError} when one weight reads two values, whose sites would have one name
 */
export function insertActivationQuantizers(graph: Graph): Graph {
  const siteOf = inputNames(graph), find = linearFinder();
  return rewrite(graph, (node, b) => {
    const linear = find(node), name = linear && siteOf.get(linear.name);
    if (!linear || name === undefined) return undefined;
    const [x, w] = node.inputs as [Node, Node];
    const marked = b.site(b.reshape(linear.source, linear.sourceShape), name, "activation");
    return b.make("dot", [b.reshape(marked, x.type.shape), w], node.attrs);
  });
}

/** The name of what a linear reads, by the name of its weight: what the weights of one value have in common, and `input`. */
export function inputNames(graph: Graph): ReadonlyMap<string, string> {
  const readers = new Map<Node, Set<string>>(), siteOf = new Map<string, string>();
  for (const { source, name } of linearsOf(graph)) readers.set(source, (readers.get(source) ?? new Set()).add(name));
  for (const names of readers.values()) {
    const site = [...commonPrefix([...names].map((name) => name.split(".").slice(0, -1))), "input"].join(".");
    for (const name of names) {
      if (siteOf.has(name)) {
        throw new TypeError(
          `Cannot insert activation quantizers: expected one value that "${name}" reads but found several`,
        );
      }
      siteOf.set(name, site);
    }
  }
  return siteOf;
}

function commonPrefix(paths: readonly (readonly string[])[]): readonly string[] {
  const [first = [], ...others] = paths;
  const end = first.findIndex((segment, i) => others.some((path) => path[i] !== segment));
  return end < 0 ? first : first.slice(0, end);
}
