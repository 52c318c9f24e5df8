/** Attention of one token over a cache: all heads of a chunk go from key to key together. */
import { assertEquals } from "@std/assert";
import { evaluate } from "../../../backends/reference/evaluate.ts";
import { openWasm } from "../../../backends/wasm/backend.ts";
import { createBuilder } from "../../../ir/builder.ts";
import { type Graph, graphOf, leavesOf, nameOf } from "../../../ir/node.ts";
import { random } from "../../../ir/random.ts";
import { sizeOf, tensorType } from "../../../ir/types.ts";
import { assertClose, runGraph } from "../../support/run_graph.ts";

interface Shape {
  readonly batch: number;
  readonly context: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly width: number;
  readonly valueWidth: number;
  readonly window?: number;
}

function decode({ batch, context, heads, kvHeads, width, valueWidth, window }: Shape): Graph {
  const b = createBuilder(), input = (name: string, ...shape: number[]) => b.input(name, tensorType("f32", shape));
  const operands = [
    input("q", batch, 1, heads, width),
    input("k", batch, context, kvHeads, width),
    input("v", batch, context, kvHeads, valueWidth),
    b.input("positions", tensorType("i32", [batch, 1])),
  ];
  const attrs = { scale: 1 / Math.sqrt(width), causal: true, positions: true, ...(window ? { window } : {}) };
  const result = (of: string) => b.make("attention", operands, { ...attrs, of });
  return graphOf({ output: result("output"), logSumExp: result("logSumExp") });
}

function leavesFor(graph: Graph, { context }: Shape, seed: number): Record<string, Float64Array> {
  const draw = random(seed, "decode");
  return Object.fromEntries(
    leavesOf(graph, "input").map((node) => {
      const value = () => nameOf(node) === "positions" ? draw.int(context) : Math.fround(draw.normal());
      return [nameOf(node), Float64Array.from({ length: sizeOf(node.type.shape) }, value)];
    }),
  );
}

Deno.test("a token's attention equals the reference at random shapes, and threads do not change a bit", async () => {
  const draw = random(7, "shapes"), pick = <T>(list: readonly T[]): T => list[draw.int(list.length)] as T;
  await using one = await openWasm({ threads: 1 });
  await using three = await openWasm({ threads: 3 });
  for (let seed = 0; seed < 30; seed++) {
    const kvHeads = pick([2, 3, 4, 8, 12]);
    const shape: Shape = {
      batch: pick([1, 1, 2]),
      context: pick([1, 3, 4, 5, 37, 130, 515]),
      heads: kvHeads * pick([1, 2, 3]),
      kvHeads,
      width: pick([4, 8, 20, 64]),
      valueWidth: pick([4, 12, 64]),
      ...(draw.int(3) === 0 ? { window: 1 + draw.int(40) } : {}),
    };
    const graph = decode(shape), leaves = leavesFor(graph, shape, seed), found = await runGraph(one, graph, leaves);
    assertClose(found, evaluate(graph, leaves));
    assertEquals(await runGraph(three, graph, leaves), found);
  }
});
