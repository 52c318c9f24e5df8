/** Products of many rows in f32: several chunks of rows and columns, operands in place, computed, and across memory. */
import { assert, assertEquals } from "@std/assert";
import * as fc from "fast-check";
import type { DotKernel } from "../../../backends/kernel.ts";
import { lowerGraph } from "../../../backends/regions/lower.ts";
import { createBuilder } from "../../../ir/builder.ts";
import { graphOf, type Node } from "../../../ir/node.ts";
import { random } from "../../../ir/random.ts";
import { sizeOf, tensorType } from "../../../ir/types.ts";
import { interpretKernel } from "../../support/interpret_kernel.ts";
import { runSpec } from "./run_spec.ts";

/** How an operand [rows, k] is given: as it is, row by row divided by something, or as [k, rows]. */
const FORMS = ["plain", "scaled", "turned"] as const;

interface Shape {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly left: typeof FORMS[number];
  readonly right: typeof FORMS[number];
}

function kernelOf({ m, n, k, left, right }: Shape): DotKernel {
  const b = createBuilder();
  const operand = (name: string, rows: number, form: Shape["left"]): Node => {
    const x = b.input(name, tensorType("f32", form === "turned" ? [k, rows] : [rows, k]));
    if (form !== "scaled") return x;
    return b.div(x, b.input(`${name}.norm`, tensorType("f32", [rows, 1])));
  };
  const y = b.dot(operand("x", m, left), operand("w", n, right), {
    lhsContract: [left === "turned" ? 0 : 1],
    rhsContract: [right === "turned" ? 0 : 1],
  });
  const kernel = lowerGraph(graphOf({ y })).steps.map((step) => step.kernel).find(({ kind }) => kind === "dot");
  if (kernel?.kind !== "dot") throw new Error("The graph has no contraction");
  return kernel;
}

const shapes: fc.Arbitrary<Shape> = fc.record({
  m: fc.constantFrom(5, 6, 7, 9, 16, 31, 64, 129),
  n: fc.constantFrom(5, 8, 12, 40, 129),
  k: fc.constantFrom(1, 3, 16, 21, 172, 300, 700),
  left: fc.constantFrom(...FORMS),
  right: fc.constantFrom(...FORMS),
});

Deno.test("products of many rows are those of the interpreter, the same bits on any number of threads", () => {
  fc.assert(
    fc.property(shapes, fc.integer({ min: 0, max: 2 ** 31 - 1 }), fc.boolean(), (shape, seed, relaxed) => {
      const spec = kernelOf(shape), draw = random(seed, "panels");
      const buffers = spec.buffers.map(({ type, name }) =>
        Float32Array.from(
          { length: sizeOf(type.shape) },
          () => name.endsWith("norm") ? 1 + draw.uniform() : draw.normal(),
        )
      );
      const expected = buffers.map((values) => values.slice());
      interpretKernel(spec, expected);
      const found = runSpec(spec, buffers, { relaxed }), y = spec.buffers.findIndex(({ use }) => use === "write");
      const want = Array.from(expected[y] ?? []), largest = Math.max(1, ...want.map(Math.abs));
      want.forEach((value, i) => {
        const got = found[y]?.[i] ?? NaN;
        assert(Math.abs(got - value) < 1e-5 * largest, `${JSON.stringify(shape)} [${i}]: ${got}, not ${value}`);
      });
      for (const threads of [2, 3]) assertEquals(runSpec(spec, buffers, { relaxed, threads }), found);
    }),
    { numRuns: 60, seed: 1 },
  );
});
