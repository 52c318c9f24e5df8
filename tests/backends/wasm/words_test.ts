/** Codes handled sixteen at a time: small sums of them, and stores that clamp what is below zero by narrowing. */
import { assertEquals } from "@std/assert";
import { evaluate } from "../../../backends/reference/evaluate.ts";
import { openWasm } from "../../../backends/wasm/backend.ts";
import { createBuilder } from "../../../ir/builder.ts";
import { graphOf } from "../../../ir/node.ts";
import { random } from "../../../ir/random.ts";
import { tensorType, unsignedType, type Width } from "../../../ir/types.ts";
import { runGraph } from "../../support/run_graph.ts";

Deno.test("4·code + fine is exact at rows of any length", async () => {
  await using backend = await openWasm();
  for (const columns of [16, 20, 48, 64, 100, 192]) {
    const b = createBuilder(), draw = random(columns, "words"), shape = [18, columns];
    const codes = b.cast(b.param("codes", tensorType("i8", shape), "checkpoint"), "i32");
    const fine = b.cast(b.param("fine", tensorType("u2", shape), "checkpoint"), "i32");
    const graph = graphOf({ y: b.mul(b.cast(b.add(b.mul(codes, 4), fine), "f32"), 0.25) });
    const fill = (least: number, count: number) =>
      Float64Array.from({ length: 18 * columns }, () => least + draw.int(count));
    const leaves = { codes: fill(-128, 256), fine: fill(0, 4) }, { y } = await runGraph(backend, graph, leaves);
    assertEquals([...y ?? []], [...evaluate(graph, leaves).y ?? []]);
  }
});

Deno.test("codes of floats are clamped to their grid, whatever the floats are", async () => {
  await using backend = await openWasm();
  const extremes = [-Infinity, -1e30, -40000, -1, -0.6, 0, 0.4, 1, 14, 16, 40000, 1e30, Infinity];
  for (const width of [2, 3, 4, 5, 7, 8] as const satisfies readonly Width[]) {
    for (const columns of [16, 24, 128]) {
      const b = createBuilder(), top = 2 ** width - 1, shape = [20, columns];
      const x = b.input("x", tensorType("f32", shape));
      const codes = b.cast(b.minimum(b.maximum(b.round(x), 0), top), unsignedType(width));
      const graph = graphOf({ codes }), draw = random(width, "extremes");
      const leaves = { x: Float64Array.from({ length: 20 * columns }, () => extremes[draw.int(extremes.length)] ?? 0) };
      const { codes: found } = await runGraph(backend, graph, leaves);
      assertEquals([...found ?? []], [...evaluate(graph, leaves).codes ?? []]);
    }
  }
});
