/** Whole programs on WebAssembly against the reference backend. */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import * as fc from "fast-check";
import { type Backend, hostArray, type HostArray } from "../../../backends/backend.ts";
import { evaluate } from "../../../backends/reference/evaluate.ts";
import { openWasm } from "../../../backends/wasm/backend.ts";
import { createBuilder } from "../../../ir/builder.ts";
import { type Graph, graphOf, leavesOf, nameOf } from "../../../ir/node.ts";
import { sizeOf, tensorType } from "../../../ir/types.ts";
import { randomGraph } from "../../support/random_graphs.ts";

const f32 = (...shape: number[]) => tensorType("f32", shape);

/** Runs a graph on a backend, from host values to host values. */
async function runGraph(backend: Backend, graph: Graph, leaves: Readonly<Record<string, Float64Array>>): Promise<Record<string, HostArray>> {
  const executable = await backend.compile(graph);
  const bound = Object.fromEntries(Object.entries(executable.leaves).map(([name, type]) => {
    const values = hostArray(type.dtype, sizeOf(type.shape));
    values.set(leaves[name] ?? []);
    return [name, backend.upload(type, values)];
  }));
  const results = backend.run(executable, bound);
  const values: Record<string, HostArray> = {};
  for (const [name, tensor] of Object.entries(results)) values[name] = await backend.download(tensor);
  for (const tensor of new Set([...Object.values(bound), ...Object.values(results)])) backend.free(tensor);
  return values;
}

const SEEDS = fc.noShrink(fc.integer({ min: 0, max: 2 ** 31 - 1 }));

Deno.test("openWasm() computes what the reference computes, on random graphs", async () => {
  await using backend = await openWasm();
  await fc.assert(
    fc.asyncProperty(SEEDS, async (seed) => {
      const { graph, leaves: drawn } = randomGraph(seed, { maxNodes: 16 });
      const truths = new Set([...leavesOf(graph, "input"), ...leavesOf(graph, "param")].filter(({ type }) => type.dtype === "bool").map(nameOf));
      const leaves = Object.fromEntries(Object.entries(drawn).map(([name, values]) => [name, truths.has(name) ? values.map((x) => x ? 1 : 0) : values]));
      const expected = evaluate(graph, leaves);
      const found = await runGraph(backend, graph, leaves);
      for (const [name, values] of Object.entries(expected)) {
        const got = found[name] as HostArray, magnitude = values.reduce((most, x) => Math.max(most, Math.abs(x)), 1);
        assertEquals(got.length, values.length);
        values.forEach((want, i) =>
          assert(want === got[i] || Math.abs(want - (got[i] ?? NaN)) <= 3e-5 * magnitude, `${name}[${i}]: expected ${want} but found ${got[i]}`)
        );
      }
    }),
    { numRuns: 300, seed: 3 },
  );
});
