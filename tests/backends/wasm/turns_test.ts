/** Products that take turns with the kernel that reads their rows: the same bytes as one after the other, in less memory. */
import { assert, assertEquals } from "@std/assert";
import * as fc from "fast-check";
import type { Backend } from "../../../backends/backend.ts";
import { lowerGraph } from "../../../backends/regions/lower.ts";
import { openWasm } from "../../../backends/wasm/backend.ts";
import { generateKernel } from "../../../backends/wasm/kernel.ts";
import { planTurns, type TurnPlan } from "../../../backends/wasm/turns.ts";
import type { DecoderConfig } from "../../../compiler/frontends/config.ts";
import { decoderModule } from "../../../compiler/frontends/decoder.ts";
import { deployFunction, elasticModule, trainFunction } from "../../../compiler/pipeline.ts";
import { defaultRecipe } from "../../../compiler/recipe.ts";
import { createBuilder } from "../../../ir/builder.ts";
import { type Graph, graphOf, leavesOf, nameOf } from "../../../ir/node.ts";
import { random } from "../../../ir/random.ts";
import { bindSymbols } from "../../../ir/symbols.ts";
import { sizeOf, tensorType } from "../../../ir/types.ts";
import { leafValues, uniformWidths } from "../../support/quantized_block.ts";
import { VARIANTS } from "../../support/random_decoder.ts";
import { runGraph } from "../../support/run_graph.ts";

interface Shape {
  readonly rows: number;
  readonly columns: number;
  readonly rank: number;
}

/** Codes of W + B·A, a scale per row: what a switch computes. `also`: the product is a result, too. */
function quantized({ rows, columns, rank }: Shape, also = false): Graph {
  const b = createBuilder(), input = (name: string, ...shape: number[]) => b.input(name, tensorType("f32", shape));
  const product = b.dot(input("left", rows, rank), input("right", rank, columns), {
    lhsContract: [1],
    rhsContract: [0],
  });
  const weights = b.add(input("w", rows, columns), product), largest = b.max(b.abs(weights), [1]);
  const codes = b.cast(b.add(b.round(b.mul(b.div(weights, largest), 7)), 8), "u4");
  return graphOf({ codes, largest, ...(also ? { product } : {}) });
}

const plansOf = (graph: Graph, threads: number): readonly TurnPlan[] => {
  const lowered = lowerGraph(graph);
  return planTurns(
    lowered,
    lowered.steps.map(({ kernel }) => generateKernel(kernel, { relaxed: false, shared: false })),
    threads,
  );
};

const leavesFor = (graph: Graph, seed: number) => {
  const draw = random(seed, "turns");
  return Object.fromEntries(
    leavesOf(graph, "input").map((node) => [
      nameOf(node),
      Float64Array.from({ length: sizeOf(node.type.shape) }, () => Math.fround(draw.normal())),
    ]),
  );
};

Deno.test("planTurns() lets a product and the rows made of it take turns, and nothing that others read", () => {
  const shape = { rows: 1000, columns: 500, rank: 16 }, [plan] = plansOf(quantized(shape), 1);
  if (!plan) throw new Error("Expected turns but found none");
  assertEquals(plan.count, Math.ceil(1000 / plan.chunks[1]), "rows of a turn");
  assertEquals(plan.elements, 500 * plan.chunks[1]);
  assertEquals(plansOf(quantized(shape, true), 1), [], "a result must stay");
  assertEquals(plansOf(quantized({ ...shape, rows: 40 }), 1), [], "what is small is in the cache anyway");
  assertEquals(plansOf(quantized(shape), 64), [], "threads need more turns than there are");
});

const shapes: fc.Arbitrary<Shape> = fc.record({
  rows: fc.integer({ min: 300, max: 1200 }),
  columns: fc.integer({ min: 120, max: 700 }),
  rank: fc.integer({ min: 1, max: 40 }),
});

Deno.test("turns give the bytes of kernels that run one after the other, on any number of threads", async () => {
  await using apart = await openWasm({ profile: () => {} });
  await using one = await openWasm();
  await using two = await openWasm({ threads: 2 });
  await using three = await openWasm({ threads: 3 });
  let taken = 0;
  await fc.assert(
    fc.asyncProperty(shapes, fc.integer({ min: 0, max: 2 ** 31 - 1 }), async (shape, seed) => {
      const graph = quantized(shape), leaves = leavesFor(graph, seed), expected = await runGraph(apart, graph, leaves);
      taken += plansOf(graph, 2).length;
      for (const backend of [one, two, three]) assertEquals(await runGraph(backend, graph, leaves), expected);
    }),
    { numRuns: 25, seed: 1 },
  );
  assert(taken > 10, `${taken} graphs with turns`);
});

/** Large enough for turns with 200 tokens. */
const CONFIG: DecoderConfig = {
  ...VARIANTS["no transforms of these widths"],
  hiddenSize: 64,
  intermediateSize: 172,
  heads: 8,
  kvHeads: 4,
  headDim: 8,
};

Deno.test("turns change no byte of a rotated block, trained or deployed", async () => {
  await using apart = await openWasm({ profile: () => {} });
  await using one = await openWasm();
  const recipe = defaultRecipe("activations", 0), block = elasticModule(decoderModule(CONFIG), recipe).functions.block;
  if (!block) throw new Error("Expected a block");
  const widths = uniformWidths(block, 4, 4, 4);
  const graphs = {
    train: trainFunction(block, widths, recipe.scheme),
    step: deployFunction(block, widths, recipe.scheme).step,
  };
  for (const [name, graph] of Object.entries(graphs)) {
    for (const T of [100, 128, 333]) {
      const bound = bindSymbols(graph, { B: 2, T }), leaves = leafValues(bound);
      assert(plansOf(bound, 1).length > 0, `${name} has turns`);
      // What the first of two kernels reads must outlive the turns of both.
      assertEquals(await runGraph(one, bound, leaves), await runGraph(apart, bound, leaves), `${name}, ${T} tokens`);
    }
  }
});

Deno.test("what turns hand on takes the room of one turn per thread", async () => {
  const graph = quantized({ rows: 1200, columns: 640, rank: 16 });
  const arena = async (backend: Backend) => (await backend.compile(graph)).plan.arenaBytes;
  await using apart = await openWasm({ profile: () => {} });
  await using two = await openWasm({ threads: 2 });
  const [whole, some] = [await arena(apart), await arena(two)];
  assert(whole >= 4 * 1200 * 640, `${whole} bytes`);
  assert(some <= whole / 4, `${some} of ${whole} bytes`);
});
