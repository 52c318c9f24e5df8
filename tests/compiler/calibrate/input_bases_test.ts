/** Where adapters start: the directions in which what linears read varies most. */
import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import type { HostArray } from "../../../backends/backend.ts";
import { evaluate } from "../../../backends/reference/evaluate.ts";
import type { ExactCall } from "../../../compiler/calibrate/exact_call.ts";
import { basisRound, orthonormal, startAdapters } from "../../../compiler/calibrate/input_bases.ts";
import type { LearnedLayout, LearnedTensor } from "../../../compiler/calibrate/learned.ts";
import { holdParameters } from "../../../compiler/passes/hold_parameters.ts";
import { createBuilder } from "../../../ir/builder.ts";
import { type Graph, graphOf } from "../../../ir/node.ts";
import { random } from "../../../ir/random.ts";
import { bindSymbols } from "../../../ir/symbols.ts";
import { tensorType } from "../../../ir/types.ts";

/** x·Wᵀ with held W [rows, columns] */
function linear(rows: number, columns: number): Graph {
  const b = createBuilder(), weight = b.param("up.weight", tensorType("f32", [rows, columns]), "checkpoint");
  const x = b.input("x", tensorType("f32", ["T", columns]));
  return holdParameters(graphOf({ y: b.dot(x, weight, { lhsContract: [1], rhsContract: [1] }) }));
}

const dot = (x: ArrayLike<number>, y: ArrayLike<number>) =>
  Array.from(x, (value, i) => value * (y[i] ?? 0)).reduce((a, b) => a + b, 0);

Deno.test("orthonormal() makes rows orthonormal, and zeros of what has nothing of its own", () => {
  const rng = random(1, "rows"), rows = Float64Array.from({ length: 4 * 7 }, () => rng.normal());
  for (let c = 0; c < 7; c++) rows[2 * 7 + c] = 3 * (rows[c] ?? 0) - (rows[7 + c] ?? 0);
  const found = orthonormal(rows, 7), row = (i: number) => found.subarray(7 * i, 7 * i + 7);
  for (let i = 0; i < 4; i++) {
    for (let j = 0; j < 4; j++) assertAlmostEquals(dot(row(i), row(j)), i === j && i !== 2 ? 1 : 0, 1e-6);
  }
});

Deno.test("basisRound() multiplies a basis with the second moment of weighted tokens", () => {
  const x = Float64Array.of(1, 2, 3, 4, 5, 6), basis = Float64Array.of(1, -1, 2, 1);
  const found = evaluate(bindSymbols(basisRound(linear(3, 2), 5), { T: 3 }), {
    x,
    "up.input.basis": basis,
    "token.weights": Float64Array.of(1, 0, 1),
  }, { precision: "f64" })["up.input"];
  // Σ x·xᵀ of the first and the last token is [26, 32; 32, 40].
  assertEquals([...found ?? []], [26 - 32, 32 - 40, 2 * 26 + 32, 2 * 32 + 40]);
});

Deno.test("startAdapters() puts the strongest directions first, as long as random rows, and leaves rows without one alone", async () => {
  const columns = 12, tokens = 40, rank = 5, rng = random(2, "start");
  const directions = orthonormal(Float64Array.from({ length: 3 * columns }, () => rng.normal()), columns);
  const direction = (i: number) => directions.subarray(i * columns, (i + 1) * columns), sizes = [9, 3, 1];
  const batch = () => {
    const x = new Float32Array(tokens * columns);
    for (let t = 0; t < tokens; t++) {
      for (const [i, size] of sizes.entries()) {
        const part = size * rng.normal();
        direction(i).forEach((value, c) => x[t * columns + c] = (x[t * columns + c] ?? 0) + part * value);
      }
    }
    return new Map<string, HostArray>([["x", x]]);
  };
  const graph = linear(4, columns), track = [batch(), batch()];
  const results: ExactCall["results"] = (program, values, symbols) => {
    const found = evaluate(
      bindSymbols(program.graph(), symbols),
      Object.fromEntries(Array.from(values, ([name, value]) => [name, Float64Array.from(value)])),
    );
    return Promise.resolve(new Map(Object.entries(found).map(([name, part]) => [name, Float32Array.from(part)])));
  };
  const tensor: LearnedTensor = {
    kind: "factor",
    name: "up.weight.adapter.3.a",
    offset: 64,
    shape: [rank, columns],
    layout: { side: "right", ends: [rank], rows: columns },
  };
  const layout: LearnedLayout = { tensors: [tensor], byName: new Map(), clips: 0, pairs: [], length: 128 };
  const list = track.map(() => {
    return {
      ids: new Int32Array(tokens),
      positions: new Int32Array(tokens),
      weights: new Float32Array(tokens).fill(1),
    };
  });
  const search = {
    exact: { results, run: () => Promise.reject(), release: () => {} },
    graph,
    name: "linear",
    layout,
    batches: { batch: 1, tokens, list },
    track,
  };
  const flat = new Float32Array(128).fill(0.25);
  await startAdapters(search, flat, random(3, "directions"));
  const row = (i: number) => flat.subarray(64 + i * columns, 64 + (i + 1) * columns);
  const length = Math.sqrt(2 * columns / (rank + columns));
  for (const [i] of sizes.entries()) {
    assertAlmostEquals(Math.sqrt(dot(row(i), row(i))), length, 1e-5);
    // Few tokens: their own directions are near the planted ones.
    assert(Math.abs(dot(row(i), direction(i))) > 0.95 * length, `row ${i}`);
  }
  assert([...flat.subarray(0, 64), ...row(3), ...row(4)].every((value) => value === 0.25));
});
