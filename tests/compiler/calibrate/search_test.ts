/** The searches of AWQ: scales of columns, and where clips start. */
import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { evaluate } from "../../../backends/reference/evaluate.ts";
import { statisticsProgram } from "../../../compiler/calibrate/input_statistics.ts";
import { clipProgram } from "../../../compiler/calibrate/search_clips.ts";
import { scaledStatistics, type Scales, scalesOf, searchScales } from "../../../compiler/calibrate/search_scales.ts";
import { holdParameters } from "../../../compiler/passes/hold_parameters.ts";
import { insertWeightQuantizers } from "../../../compiler/passes/quantize/insert_weight_quantizers.ts";
import type { ScaledInput } from "../../../compiler/passes/structure/scale_columns.ts";
import { createBuilder } from "../../../ir/builder.ts";
import { graphOf } from "../../../ir/node.ts";
import { random } from "../../../ir/random.ts";
import { bindSymbols } from "../../../ir/symbols.ts";
import { tensorType } from "../../../ir/types.ts";
import { SCHEME } from "../../support/quantized_block.ts";

const statistics = (magnitude: readonly number[], power = magnitude.map((x) => x * x)) => ({
  magnitude: Float32Array.from(magnitude),
  power: Float32Array.from(power),
});
const input = (name: string, outer: number, repeats: number, inner: number): ScaledInput => ({
  value: name,
  name: `${name}.scale`,
  source: createBuilder().input("x", tensorType("f32", [1])),
  weights: [],
  outer,
  repeats,
  inner,
});

Deno.test("scalesOf() is a power of the magnitudes with a geometric middle of 1; heads of one group are averaged", () => {
  const known = new Map([["a", statistics([1, 4, 16])], ["b", statistics([1, 2, 3, 6, 9, 9, 9, 9])]]);
  assertEquals([...scalesOf(input("a", 1, 1, 3), known, 0.5)], [0.5, 1, 2]);
  assertEquals([...scalesOf(input("a", 1, 1, 3), known, 0)], [1, 1, 1]);
  // [2 groups of heads, 2 heads each, 2 columns]: means 2, 4 and 9, 9.
  const grouped = [2, 4, 9, 9].map((x) => Math.fround(x / Math.sqrt(18)));
  assertEquals([...scalesOf(input("b", 2, 2, 2), known, 1)], grouped);
});

Deno.test("scaledStatistics() are those of the divided values", () => {
  const known = new Map([["b", statistics([1, 2, 3, 6, 9, 9, 9, 9])]]), inputs = [input("b", 2, 2, 2)];
  const scaled = scaledStatistics({ inputs, statistics: known }, new Map([["b.scale", Float32Array.of(1, 2, 3, 9)]]));
  assertEquals([...scaled.get("b")?.magnitude ?? []], [1, 1, 3, 3, 3, 1, 3, 1]);
  assertEquals([...scaled.get("b")?.power ?? []], [1, 1, 9, 9, 9, 1, 9, 1]);
});

Deno.test("searchScales() takes input after input to its best exponent, and ones where none helps", async () => {
  const known = new Map([["a", statistics([1, 4])], ["b", statistics([1, 4])]]);
  const inputs = [input("a", 1, 1, 2), input("b", 1, 1, 2)];
  // Two bit groups; "a" is best where its scales are a factor of 4^0.3 apart, "b" is best unscaled.
  const spread = (scales: Scales, name: string) =>
    Math.log2((scales.get(name)?.[1] ?? 1) / (scales.get(name)?.[0] ?? 1));
  const losses = (scales: Scales) => {
    const a = Math.abs(spread(scales, "a.scale") - 0.6), b = spread(scales, "b.scale");
    return Promise.resolve([1 + a + b, 100 + 10 * a + b]);
  };
  const found = await searchScales({ inputs, statistics: known, losses });
  assertAlmostEquals(spread(found, "a.scale"), 0.6, 1e-6);
  assertEquals([...found.get("b.scale") ?? []], [1, 1]);
});

/** x·Wᵀ with held W [rows, columns] */
function linear(rows: number, columns: number) {
  const b = createBuilder(), weight = b.param("up.weight", tensorType("f32", [rows, columns]), "checkpoint");
  const x = b.exp(b.input("x", tensorType("f32", ["T", columns])));
  return holdParameters(graphOf({ y: b.dot(x, weight, { lhsContract: [1], rhsContract: [1] }) }));
}

Deno.test("statisticsProgram() sums |x| and x² over weighted tokens", () => {
  const x = Float64Array.of(0, 1, 2, 3, 4, 5), e = (...powers: number[]) => powers.map(Math.exp);
  const found = evaluate(bindSymbols(statisticsProgram(linear(3, 2)), { T: 3 }), {
    x,
    "token.weights": Float64Array.of(1, 0, 1),
  }, { precision: "f64" });
  const sums = (
    values: readonly number[],
  ) => [(values[0] ?? 0) + (values[4] ?? 0), (values[1] ?? 0) + (values[5] ?? 0)];
  const expected = sums(e(0, 1, 2, 3, 4, 5)), squares = sums(e(0, 2, 4, 6, 8, 10));
  expected.forEach((value, i) => assertAlmostEquals(found["up.input.magnitude"]?.[i] ?? NaN, value, 1e-9));
  squares.forEach((value, i) => assertAlmostEquals(found["up.input.power"]?.[i] ?? NaN, value, 1e-6));
});

Deno.test("clipProgram() finds the clip with the least weighted error, row by row and group by group", () => {
  const rows = 3, columns = 16, size = 8, width = 3, top = 7, start = 9, draw = random(4, "clips");
  const w = Float64Array.from({ length: rows * columns }, () => Math.fround(draw.normal() ** 3));
  const power = Float64Array.from({ length: columns }, () => Math.fround(Math.abs(draw.normal())));
  const scheme = { ...SCHEME, groupSizes: { ...SCHEME.groupSizes, [width]: size } };
  const graph = clipProgram(insertWeightQuantizers(linear(rows, columns), scheme), scheme, width, start);
  const found = evaluate(graph, { "up.weight": w, "up.weight.power": power })["up.weight"] ?? [];
  const error = (group: number, ratio: number) => {
    const at = group * size, part = w.subarray(at, at + size);
    const lo = Math.min(0, ...part) * ratio, hi = Math.max(0, ...part) * ratio, step = (hi - lo) / top;
    const zero = -Math.round(lo / step);
    return part.reduce((sum, value, i) => {
      const code = Math.min(top, Math.max(0, Math.round(value / step) + zero));
      return sum + (power[(at + i) % columns] ?? 0) * (value - (code - zero) * step) ** 2;
    }, 0);
  };
  const ratios = [1 / (1 + Math.exp(-start)), 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5];
  assertEquals(found.length, rows * columns / size);
  let cut = 0;
  for (const [group, logit] of found.entries()) {
    const ratio = 1 / (1 + Math.exp(-logit)), least = Math.min(...ratios.map((other) => error(group, other)));
    assert(error(group, ratio) <= least * (1 + 1e-5), `group ${group}`);
    if (ratio < 0.96) cut++;
  }
  assert(cut > 0, "something is cut off");
});
