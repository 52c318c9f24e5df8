/**
 * @file Stacks linears that read one value (queries, keys and values; gate and up) where their grids are alike: one product, one
 * launch, and the value is read once. Their codes, scales and zero points are held together, under the names joined by "+".
 */
import type { Builder } from "../../ir/builder.ts";
import { type Graph, nameOf, type Node } from "../../ir/node.ts";
import { rewrite } from "../../ir/rewrite.ts";
import { contractsGroups, dequantizedWeight, type Weight } from "./contract_integers.ts";

/** Joins the names of the weights in a stack. */
export const JOINT = "+";

/** A weight with a grid of its own. */
interface Member {
  readonly site: string;
  readonly grid: Weight;
  readonly rows: number;
}

/** Rewrites a specialised graph whose linears contract over groups. */
export function stackLinears(graph: Graph): Graph {
  const stacks = stacksOf(graph);
  if (stacks.size === 0) return graph;
  return rewrite(graph, (node, b) => {
    const member = memberOf(node), stack = member && stacks.get(member.site), [x] = node.inputs;
    if (!member || !stack || !x) return undefined;
    const y = b.make("dot", [x, stackedWeight(b, stack)], node.attrs);
    const before = stack.slice(0, stack.findIndex(({ site }) => site === member.site));
    const lead = y.type.shape.slice(0, -1), start = before.reduce((sum, { rows }) => sum + rows, 0);
    return b.slice(y, [...lead.map(() => 0), start], [...lead, member.rows]);
  });
}

/** The linears that stand together, by site. */
function stacksOf(graph: Graph): ReadonlyMap<string, readonly Member[]> {
  const bySource = new Map<Node, Map<string, Member[]>>();
  for (const node of graph.nodes) {
    const member = memberOf(node), [x] = node.inputs;
    if (!member || !x) continue;
    const { codes: { type: { dtype, shape: [, groups, size] } } } = member.grid, key = `${dtype} ${groups} ${size}`;
    const alike = bySource.get(x) ?? new Map<string, Member[]>();
    bySource.set(x, alike);
    alike.set(key, [...alike.get(key) ?? [], member]);
  }
  const stacks = [...bySource.values()].flatMap((alike) => [...alike.values()]).filter(({ length }) => length > 1);
  // In the order of their names: programs of different times must agree.
  const sorted = stacks.map((stack) => stack.sort((a, b) => a.site < b.site ? -1 : 1));
  return new Map(sorted.flatMap((stack) => stack.map(({ site }) => [site, stack] as const)));
}

/** The linear of a contraction whose right operand is dequantized from held codes. */
function memberOf(node: Node): Member | undefined {
  if (node.op !== "dot" || !contractsGroups(node)) return undefined;
  const grid = dequantizedWeight(node.inputs[1] as Node);
  if (!grid || [grid.codes, grid.scale, grid.zero].some(({ op }) => op !== "hold")) return undefined;
  return { site: nameOf(grid.codes).replace(/\.codes$/, ""), grid, rows: Number(grid.codes.type.shape[0]) };
}

function stackedWeight(b: Builder, stack: readonly Member[]): Node {
  const name = stack.map(({ site }) => site).join(JOINT);
  const held = (part: keyof Weight): Node => {
    const values = stack.map(({ grid }) => b.adopt(grid[part].inputs[0] as Node));
    return b.hold(b.concat(values, 0), "configuration", `${name}.${part}`);
  };
  return b.mul(b.sub(b.cast(held("codes"), "f32"), held("zero")), held("scale"));
}
