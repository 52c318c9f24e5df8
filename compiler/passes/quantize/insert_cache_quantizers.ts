/** @file Marks where keys and values are quantized before a cache stores them. */
import { type Graph, type Node, stringAttr } from "../../../ir/node.ts";
import { rewrite } from "../../../ir/rewrite.ts";
import { linearFinder } from "./linears.ts";

/**
 * k -> site(k, role key) and v -> site(v, role value) on the operands of every attention, so behind rope and rotations. A
 * site is named after the linear that makes the operand (`attention.key.weight` -> `attention.key`); where one linear makes
 * several operands, the role is added (`attention.qkv.weight` -> `attention.qkv.key`).
 *
 * @throws {TypeError} when not exactly one linear makes an operand
 */
export function insertCacheQuantizers(graph: Graph): Graph {
  const find = linearFinder();
  const makerOf = (operand: Node, role: string): string => {
    const makers = new Set<string>(), seen = new Set<Node>(), stack = [operand];
    for (let node = stack.pop(); node; node = stack.pop()) {
      if (seen.has(node)) continue;
      seen.add(node);
      const linear = find(node);
      if (linear) makers.add(linear.name.split(".").slice(0, -1).join("."));
      else stack.push(...node.inputs);
    }
    const [maker, ...others] = makers;
    if (maker === undefined || others.length > 0) {
      throw new TypeError(
        `Cannot insert cache quantizers: expected one linear that makes attention's ${role} but found ${
          [...makers].map((name) => `"${name}"`).join(", ") || "none"
        }`,
      );
    }
    return maker.split(".").at(-1) === role ? maker : `${maker}.${role}`;
  };
  return rewrite(graph, (node, b) => {
    if (node.op !== "attention" || stringAttr(node.attrs, "of") !== "output") return undefined;
    const [q, k, v, ...rest] = node.inputs as [Node, Node, Node, ...Node[]];
    const key = b.site(k, makerOf(k, "key"), "key"), value = b.site(v, makerOf(v, "value"), "value");
    return b.make("attention", [q, key, value, ...rest], node.attrs);
  });
}
