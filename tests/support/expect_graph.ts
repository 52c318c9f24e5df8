/** Golden tests of passes: a text before, a text after. */
import { assertEquals } from "@std/assert";
import type { Graph } from "../../ir/node.ts";
import { parse } from "../../ir/parse.ts";
import { print } from "../../ir/print.ts";
import { verify } from "../../ir/verify.ts";

/** Asserts that `change` makes the graph `after` of the graph `before`; both are texts, names of values are free. */
export function expectGraph(change: (graph: Graph) => Graph, before: string, after: string): void {
  const changed = change(parse(before));
  verify(changed);
  assertEquals(print(changed), print(parse(after)));
}
