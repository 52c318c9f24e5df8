import { assert, assertEquals } from "@std/assert";
import * as fc from "fast-check";
import { adaptersOf } from "../../../compiler/adapters.ts";
import { decodeFactor, encodeFactor, type FactorLayout } from "../../../compiler/calibrate/stored_factors.ts";
import { FACTOR_CODES } from "../../../ir/composites/quantizers.ts";
import { segmentEnds } from "../../../ir/sites.ts";

const layouts = fc.record({
  side: fc.constantFrom("left", "right"),
  ends: fc.uniqueArray(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 4 }).map((ends) =>
    ends.sort((a, b) => a - b)
  ),
  rows: fc.integer({ min: 1, max: 9 }),
}) satisfies fc.Arbitrary<FactorLayout>;
const value = fc.oneof(fc.constant(0), fc.float({ min: -4, max: 4, noNaN: true }));
/** Factors with their layouts. */
const factors = layouts.chain((layout) => {
  const length = layout.rows * (layout.ends.at(-1) ?? 0);
  return fc.record({
    layout: fc.constant(layout),
    values: fc.array(value, { minLength: length, maxLength: length }).map((list) => Float32Array.from(list)),
  });
});

const stored = (values: Float32Array, layout: FactorLayout) => encodeFactor("w.adapter.a", values, layout);

Deno.test("encodeFactor() is off by half a step of its segment at most, and its codes fit their type", () => {
  fc.assert(fc.property(factors, ({ layout, values }) => {
    const { codes, scale } = stored(values, layout), { side, ends, rows } = layout, { top, zero } = FACTOR_CODES[side];
    const ranks = ends.at(-1) ?? 0, segments = ends.length;
    assertEquals([codes.name, ...codes.shape], ["w.adapter.a.codes", rows, ranks]);
    assertEquals([scale.name, ...scale.shape], ["w.adapter.a.scale", rows, segments]);
    assert(codes.values.every((code) => code >= zero - top && code <= zero + top));
    const back = decodeFactor(codes.values, scale.values, layout);
    for (let row = 0; row < rows; row++) {
      for (let r = 0; r < ranks; r++) {
        const step = scale.values[row * segments + ends.findIndex((end) => r < end)] ?? NaN, at = r * rows + row;
        assert(Math.abs((back[at] ?? NaN) - (values[at] ?? NaN)) <= step * 0.5001 + 1e-30, `row ${row}, rank ${r}`);
      }
    }
  }));
});

Deno.test("encodeFactor() gives the same codes for what was decoded", () => {
  fc.assert(fc.property(factors, ({ layout, values }) => {
    const { codes, scale } = stored(values, layout);
    assertEquals(stored(decodeFactor(codes.values, scale.values, layout), layout).codes.values, codes.values);
  }));
});

Deno.test("segmentEnds() cuts where some width's prefix ends, and nowhere else", () => {
  const ranks = { 2: 64, 3: 48, 4: 48, 5: 32, 6: 32, 7: 16, 8: 16 };
  assertEquals(segmentEnds(adaptersOf("cascaded", ranks), "common"), [16, 32, 48, 64]);
  assertEquals(segmentEnds(adaptersOf("shared", ranks), "common"), [64]);
  assertEquals(segmentEnds(adaptersOf("independent", ranks), "3"), [48]);
});
