/** Rows quantized anew from a master in groups: codes whose units end inside of groups, and in them. */
import { assertEquals } from "@std/assert";
import * as fc from "fast-check";
import { hostArray } from "../../../backends/backend.ts";
import type { RowKernel } from "../../../backends/kernel.ts";
import { lowerGraph } from "../../../backends/regions/lower.ts";
import { createBuilder } from "../../../ir/builder.ts";
import { graphOf } from "../../../ir/node.ts";
import { random } from "../../../ir/random.ts";
import { rangeOf, sizeOf, tensorType, unsignedType, type Width } from "../../../ir/types.ts";
import { interpretKernel } from "../../support/interpret_kernel.ts";
import { runSpec } from "./run_spec.ts";

interface Shape {
  readonly rows: number;
  readonly groups: number;
  readonly size: number;
  readonly width: Width;
}

/** Steps of each row's largest value, from codes of eight and two bits with a scale per group. */
function kernelOf({ rows, groups, size, width }: Shape): RowKernel {
  const b = createBuilder(), grouped = [rows, groups, size];
  const coarse = b.cast(b.input("codes", tensorType("i8", grouped)), "f32");
  const fine = b.cast(b.input("fine", tensorType("u2", grouped)), "f32");
  const weights = b.mul(b.add(coarse, b.div(fine, 4)), b.input("scales", tensorType("f32", [rows, groups, 1])));
  const row = b.reshape(weights, [rows, groups * size]), top = 2 ** width - 1;
  const step = b.div(b.sub(b.max(row, [1]), b.min(row, [1])), top);
  const codes = b.minimum(b.maximum(b.round(b.add(b.div(row, step), top / 2)), 0), top);
  const steps = lowerGraph(graphOf({ codes: b.cast(codes, unsignedType(width)) })).steps, kernel = steps[0]?.kernel;
  if (kernel?.kind !== "row" || steps.length > 1) throw new Error("The graph is not one row kernel");
  return kernel;
}

const shapes: fc.Arbitrary<Shape> = fc.record({
  rows: fc.integer({ min: 1, max: 5 }),
  groups: fc.integer({ min: 1, max: 12 }),
  size: fc.constantFrom(4, 12, 32, 64, 96),
  width: fc.constantFrom<Width>(2, 3, 4, 5, 6, 7, 8),
});

Deno.test("rows are packed as the interpreter does it, whatever groups they are computed in", () => {
  fc.assert(
    fc.property(shapes, fc.integer({ min: 0, max: 2 ** 31 - 1 }), (shape, seed) => {
      const spec = kernelOf(shape), draw = random(seed, "rows");
      const buffers = spec.buffers.map(({ type }) => {
        const values = hostArray(type.dtype, sizeOf(type.shape));
        // Scales are powers of two, so that no sum is rounded.
        if (type.dtype === "f32") return values.map(() => 2 ** -draw.int(4)) as typeof values;
        const [low, high] = rangeOf(type.dtype as "i8");
        return values.map(() => low + draw.int(high - low + 1)) as typeof values;
      });
      const expected = buffers.map((values) => values.slice());
      interpretKernel(spec, expected);
      const found = runSpec(spec, buffers), at = spec.buffers.findIndex(({ use }) => use === "write");
      assertEquals(found[at], expected[at]);
      assertEquals(runSpec(spec, buffers, { threads: 3 }), found);
    }),
    { numRuns: 80, seed: 1 },
  );
});
