/** Products of many short rows of bytes with codes, as switches have them. */
import { assertEquals } from "@std/assert";
import { evaluate } from "../../../backends/reference/evaluate.ts";
import { openWasm } from "../../../backends/wasm/backend.ts";
import { createBuilder } from "../../../ir/builder.ts";
import { graphOf } from "../../../ir/node.ts";
import { random } from "../../../ir/random.ts";
import { rangeOf, tensorType, unsignedType, type Width } from "../../../ir/types.ts";
import { runGraph } from "../../support/run_graph.ts";

Deno.test("short products are exact at random shapes and widths, on any number of threads", async () => {
  const draw = random(11, "short"), pick = <T>(list: readonly T[]): T => list[draw.int(list.length)] as T;
  await using one = await openWasm({ threads: 1 });
  await using three = await openWasm({ threads: 3 });
  for (let round = 0; round < 40; round++) {
    const [m, n] = [33 + draw.int(400), pick([8, 24, 64, 136, 200, 333, 768])], rank = pick([4, 8, 16, 20, 32, 48, 64]);
    const dtype = unsignedType(pick([7, 7, 4, 3, 8] as const satisfies readonly Width[])), b = createBuilder();
    const x = b.param("x", tensorType("i8", [m, rank]), "configuration");
    const w = b.param("w", tensorType(dtype, [n, rank]), "configuration");
    const y = b.dot(x, w, { lhsContract: [1], rhsContract: [1] });
    // Half of them with an epilogue: integers in f32, a scale per row.
    const scale = b.param("scale", tensorType("f32", [m, 1]), "configuration");
    const graph = graphOf({ y: round % 2 === 0 ? y : b.mul(b.cast(y, "f32"), scale) });
    const fill = (count: number, [low, high]: readonly [number, number]) =>
      Float64Array.from({ length: count }, () => low + draw.int(high - low + 1));
    const leaves = {
      x: fill(m * rank, [-127, 127]),
      w: fill(n * rank, rangeOf(dtype)),
      scale: Float64Array.from({ length: m }, () => 2 ** -draw.int(8)),
    };
    const { y: found } = await runGraph(one, graph, leaves);
    assertEquals([...found ?? []], [...evaluate(graph, leaves).y ?? []]);
    assertEquals((await runGraph(three, graph, leaves)).y, found);
  }
});
