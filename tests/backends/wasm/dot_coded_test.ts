/** Products with packed codes: every width and kind of activation, shapes that fill vectors, units and groups and shapes that do not. */
import { assert, assertEquals } from "@std/assert";
import * as fc from "fast-check";
import type { HostArray } from "../../../backends/backend.ts";
import type { DotKernel } from "../../../backends/kernel.ts";
import { generateKernel, printKernel } from "../../../backends/wasm/kernel.ts";
import { random } from "../../../ir/random.ts";
import { WIDTHS } from "../../../ir/sites.ts";
import { interpretKernel } from "../../support/interpret_kernel.ts";
import { productBuffers, productKernel, type ProductShape } from "../../support/products.ts";
import { runSpec } from "./run_spec.ts";

const shapes: fc.Arbitrary<ProductShape> = fc.record({
  m: fc.integer({ min: 1, max: 9 }),
  n: fc.constantFrom(1, 3, 4, 17, 40),
  groups: fc.constantFrom(1, 1, 2, 3),
  group: fc.constantFrom(16, 20, 32, 48, 64, 128, 128, 172, 192, 240, 256, 300),
  width: fc.constantFrom(...WIDTHS),
  activation: fc.constantFrom(undefined, undefined, 4, 5, 6, 7, 8, 8),
});

/** Largest difference of a kernel's result from the interpreter's, in units of the largest result. */
function worstError(shape: ProductShape, buffers: HostArray[], relaxed: boolean): number {
  const spec = productKernel(shape), expected = buffers.map((values) => values.slice());
  interpretKernel(spec, expected);
  const found = runSpec(spec, buffers, { relaxed }), y = spec.buffers.findIndex(({ use }) => use === "write");
  const want = Array.from(expected[y] ?? []), largest = Math.max(1e-6, ...want.map(Math.abs));
  return Math.max(...want.map((value, i) => Math.abs(value - (found[y]?.[i] ?? NaN)))) / largest;
}

/** The contraction of one group that stores its sums of integers instead of what they are scaled to. */
function integerSums(shape: ProductShape): DotKernel {
  const spec = productKernel(shape), value = { kind: "value", id: spec.accumulator, scalar: "i32" } as const;
  return {
    ...spec,
    buffers: spec.buffers.map((buffer) =>
      buffer.use === "write" ? { ...buffer, type: { ...buffer.type, dtype: "i32" } } : buffer
    ),
    stores: spec.stores.map((store) => ({ ...store, value })),
  };
}

for (const relaxed of [true, false]) {
  Deno.test(`products with codes are those of the interpreter, ${relaxed ? "with" : "without"} relaxed SIMD`, () => {
    fc.assert(
      fc.property(shapes, fc.integer({ min: 0, max: 2 ** 31 - 1 }), (shape, seed) => {
        const buffers = productBuffers(productKernel(shape), shape, random(seed, "product"));
        const error = worstError(shape, buffers, relaxed);
        assert(error < 1e-5, `${JSON.stringify(shape)}: an error of ${error}`);
      }),
      { numRuns: 150, seed: 1 },
    );
  });
}

Deno.test("integer products are exact, and the same bits with and without relaxed SIMD and on any number of threads", () => {
  fc.assert(
    fc.property(shapes, fc.integer({ min: 0, max: 2 ** 31 - 1 }), (drawn, seed) => {
      const shape = { ...drawn, groups: 1, activation: drawn.activation ?? 8 }, spec = integerSums(shape);
      const values = productBuffers(spec, shape, random(seed, "product"));
      const expected = values.map((array) => array.slice());
      interpretKernel(spec, expected);
      for (const relaxed of [true, false]) {
        for (const threads of [1, 3]) assertEquals(runSpec(spec, values, { relaxed, threads }), expected);
      }
    }),
    { numRuns: 80, seed: 2 },
  );
});

Deno.test("f32 activations keep the accuracy of f32 beside outliers, zeros and tiny values", () => {
  for (const width of WIDTHS) {
    const shape: ProductShape = { m: 2, n: 8, groups: 2, group: 128, width }, spec = productKernel(shape);
    const buffers = productBuffers(spec, shape, random(width, "outliers"));
    const x = buffers[spec.buffers.findIndex(({ name }) => name === "x")] as Float32Array;
    x[5] = 3000;
    x.fill(0, 128, 256);
    for (let i = 256; i < 384; i++) x[i] = (x[i] ?? 0) * 2 ** -90;
    const error = worstError(shape, buffers, true);
    assert(error < 1e-6, `${width} bits: an error of ${error}`);
  }
});

Deno.test("f32 activations that are not finite give results that are not finite", () => {
  for (const value of [NaN, Infinity, -Infinity]) {
    const shape: ProductShape = { m: 1, n: 4, groups: 1, group: 128, width: 4 }, spec = productKernel(shape);
    const buffers = productBuffers(spec, shape, random(1, "not finite"));
    (buffers[spec.buffers.findIndex(({ name }) => name === "x")] as Float32Array)[7] = value;
    const y = runSpec(spec, buffers)[spec.buffers.findIndex(({ use }) => use === "write")] ?? [];
    assert([...y].every((one) => !Number.isFinite(one)), `${value} gives ${y}`);
  }
});

Deno.test("products with codes use byte products where the machine has them, and never otherwise", () => {
  for (const width of WIDTHS) {
    for (const activation of [undefined, 4, 8]) {
      for (const group of [32, 128, 172]) {
        for (const m of [1, 9]) {
          const spec = productKernel({ m, n: 64, groups: 1, group, width, activation });
          const text = (relaxed: boolean) => printKernel(spec, { relaxed, shared: false });
          // Many rows of f32 go faster in f32 where bytes take more than three products.
          const bytes = (relaxed: boolean) => m === 1 || activation !== undefined || (relaxed && width < 8);
          const where = `${m} rows, ${width} bits, groups of ${group}`;
          assertEquals(text(true).includes("i32x4.relaxed_dot_i8x16_i7x16_add_s"), bytes(true), where);
          assertEquals(text(false).includes("i16x8.extmul_low_i8x16_s"), bytes(false), where);
          assert(!text(false).includes("relaxed"), where);
          const generated = () => generateKernel(spec, { relaxed: true, shared: true }).bytes;
          assertEquals(generated(), generated());
        }
      }
    }
  }
});
