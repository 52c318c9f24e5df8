/** Products with packed codes: every width and kind of activation, shapes that fill vectors, units and groups and shapes that do not. */
import { assert, assertEquals } from "@std/assert";
import * as fc from "fast-check";
import type { HostArray } from "../../../backends/backend.ts";
import type { DotKernel, Expr } from "../../../backends/kernel.ts";
import { probeByteProducts } from "../../../backends/wasm/assembler.ts";
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

/** Columns of half a kilobyte to several, which are read ahead or not, and some more than a page apart. */
const longShapes: fc.Arbitrary<ProductShape> = fc.record({
  m: fc.integer({ min: 1, max: 3 }),
  n: fc.constantFrom(4, 8, 12, 17),
  groups: fc.constantFrom(1, 2, 5),
  group: fc.constantFrom(512, 1024, 1152, 2048, 20_480),
  width: fc.constantFrom(...WIDTHS),
  activation: fc.constantFrom(undefined, 8),
}).filter(({ groups, group, width }) => groups * group * width <= 8 * 20_480);

/** How kernels multiply bytes; the first only where the machine does. */
const MODES: readonly (Parameters<typeof runSpec>[2] & { readonly name: string })[] = [
  ...(probeByteProducts().unsigned
    ? [{ name: "with relaxed SIMD that adds fours of unsigned bytes", relaxed: true, fours: true, unsigned: true }]
    : []),
  { name: "with relaxed SIMD that adds fours", relaxed: true, fours: true },
  { name: "with relaxed SIMD that adds pairs", relaxed: true, fours: false },
  { name: "without relaxed SIMD", relaxed: false, fours: false },
];
if (MODES.length < 4) {
  console.warn("SKIPPED products of unsigned bytes: this machine adds no fours of them in one instruction");
}

/** A kernel's result, and what the interpreter makes of the same buffers. */
function results(
  shape: ProductShape,
  buffers: HostArray[],
  mode: Parameters<typeof runSpec>[2],
) {
  const spec = productKernel(shape), expected = buffers.map((values) => values.slice());
  interpretKernel(spec, expected);
  const y = spec.buffers.findIndex(({ use }) => use === "write");
  return { found: Array.from(runSpec(spec, buffers, mode)[y] ?? []), want: Array.from(expected[y] ?? []) };
}

/** By result, the most that f32 activations of 16 bits may be off: half a step of every group by its weights' magnitudes. */
function allowedErrors({ m, n, groups, group, width }: ProductShape, buffers: HostArray[]): number[] {
  const declared = productKernel({ m, n, groups, group, width }).buffers;
  const [x, codes, zero, scale] = ["x", "codes", "zero", "scale"].map((name) =>
    buffers[declared.findIndex((own) => own.name === name)] ?? []
  ) as [HostArray, HostArray, HostArray, HostArray];
  return Array.from({ length: m * n }, (_, i) => {
    const row = Math.floor(i / n), column = i % n;
    let steps = 0, terms = 0;
    for (let g = 0; g < groups; g++) {
      const ofGroup = column * groups + g, unit = scale[ofGroup] ?? NaN;
      let most = 0, weights = 0;
      for (let k = 0; k < group; k++) {
        const value = Math.abs(x[(row * groups + g) * group + k] ?? NaN);
        // Codes and zero points are multiplied apart.
        const weight = ((codes[ofGroup * group + k] ?? NaN) + Math.abs(zero[ofGroup] ?? NaN)) * unit;
        most = Math.max(most, value);
        weights += weight;
        terms += value * weight;
      }
      steps += most / (127 * 2 ** 8) * weights;
    }
    return steps / 2 + 2 ** -21 * terms;
  });
}

/** Asserts that a kernel's results are those of the interpreter, as nearly as they have to be. */
function assertNear(
  shape: ProductShape,
  buffers: HostArray[],
  mode: Parameters<typeof runSpec>[2],
): void {
  const { found, want } = results(shape, buffers, mode), largest = Math.max(1e-6, ...want.map(Math.abs));
  const allowed = shape.activation === undefined ? allowedErrors(shape, buffers) : want.map(() => 1e-5 * largest);
  want.forEach((value, i) => {
    const error = Math.abs(value - (found[i] ?? NaN));
    assert(error <= (allowed[i] ?? 0), `${JSON.stringify(shape)}: ${found[i]} for ${value}, not within ${allowed[i]}`);
  });
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

for (const mode of MODES) {
  Deno.test(`products with codes are those of the interpreter, ${mode.name}`, () => {
    fc.assert(
      fc.property(shapes, fc.integer({ min: 0, max: 2 ** 31 - 1 }), (shape, seed) => {
        assertNear(shape, productBuffers(productKernel(shape), shape, random(seed, "product")), mode);
      }),
      { numRuns: 150, seed: 1 },
    );
  });

  Deno.test(`products with long columns of codes are those of the interpreter, ${mode.name}`, () => {
    fc.assert(
      fc.property(longShapes, fc.integer({ min: 0, max: 2 ** 31 - 1 }), (shape, seed) => {
        assertNear(shape, productBuffers(productKernel(shape), shape, random(seed, "product")), mode);
      }),
      { numRuns: 40, seed: 3 },
    );
  });
}

Deno.test("groups may add anything made of their sums", () => {
  for (const m of [1, 9]) {
    const shape: ProductShape = { m, n: 12, groups: 3, group: 128, width: 4, activation: 8 };
    const { groups, ...spec } = productKernel(shape);
    if (!groups) throw new Error("The product has no groups");
    // Its square is not linear in the sum.
    const term: Expr = { kind: "map", op: "mul", scalar: "f32", args: [groups.term, groups.term] };
    const squared = { ...spec, groups: { ...groups, term } };
    const buffers = productBuffers(squared, shape, random(m, "squares")), expected = buffers.map((own) => own.slice());
    interpretKernel(squared, expected);
    const y = squared.buffers.findIndex(({ use }) => use === "write");
    const found = runSpec(squared, buffers, { relaxed: true })[y] ?? [];
    expected[y]?.forEach((value, i) =>
      assert(Math.abs(value - (found[i] ?? NaN)) <= 1e-5 * value, `${found[i]} for ${value}`)
    );
  }
});

Deno.test("integer products are exact, and the same bits with every kind of SIMD and on any number of threads", () => {
  fc.assert(
    fc.property(shapes, fc.integer({ min: 0, max: 2 ** 31 - 1 }), (drawn, seed) => {
      const shape = { ...drawn, groups: 1, activation: drawn.activation ?? 8 }, spec = integerSums(shape);
      const values = productBuffers(spec, shape, random(seed, "product"));
      const expected = values.map((array) => array.slice());
      interpretKernel(spec, expected);
      for (const mode of MODES) {
        for (const threads of [1, 3]) assertEquals(runSpec(spec, values, { ...mode, threads }), expected);
      }
    }),
    { numRuns: 80, seed: 2 },
  );
});

Deno.test("sums in 16 bits hold the largest codes and activations there are", () => {
  for (const width of WIDTHS) {
    for (const m of [1, 9]) {
      const shape: ProductShape = { m, n: 24, groups: 1, group: 384, width, activation: 8 }, spec = integerSums(shape);
      for (const least of [true, false]) {
        const values = productBuffers(spec, shape, random(1, "largest"));
        spec.buffers.forEach(({ name }, i) => {
          if (name === "x") values[i]?.fill(least ? -128 : 127);
          if (name === "codes") values[i]?.fill(2 ** width - 1);
        });
        const expected = values.map((array) => array.slice());
        interpretKernel(spec, expected);
        for (const mode of MODES) assertEquals(runSpec(spec, values, mode), expected, `${width} bits, ${mode.name}`);
      }
    }
  }
});

Deno.test("sums hold the largest codes and f32 activations there are, of any length", () => {
  // So many products of 8 bits are more than 32 bits hold.
  const long = 66_320;
  for (const [width, group] of [...WIDTHS.map((width) => [width, 2048] as const), [8, long] as const]) {
    for (const value of [1, -1]) {
      const shape: ProductShape = { m: 1, n: 4, groups: 1, group, width }, spec = productKernel(shape);
      const buffers = productBuffers(spec, shape, random(1, "largest"));
      spec.buffers.forEach(({ name }, i) => {
        if (name === "x") buffers[i]?.fill(value);
        if (name === "codes") buffers[i]?.fill(2 ** width - 1);
      });
      for (const mode of MODES) {
        if (group < long) {
          assertNear(shape, buffers, mode);
          continue;
        }
        // Summed up in f32.
        const { found, want } = results(shape, buffers, mode);
        want.forEach((sum, i) => assert(Math.abs(sum - (found[i] ?? NaN)) <= 1e-3 * Math.abs(sum), `${found[i]}`));
      }
    }
  }
});

Deno.test("f32 activations are as accurate as 16 bits per group beside outliers, zeros and tiny values", () => {
  for (const width of WIDTHS) {
    const shape: ProductShape = { m: 2, n: 8, groups: 3, group: 128, width }, spec = productKernel(shape);
    const buffers = productBuffers(spec, shape, random(width, "outliers"));
    const x = buffers[spec.buffers.findIndex(({ name }) => name === "x")] as Float32Array;
    x[5] = 3000;
    x.fill(0, 128, 256);
    for (let i = 384; i < 512; i++) x[i] = (x[i] ?? 0) * 2 ** -90;
    for (const mode of MODES) assertNear(shape, buffers, mode);
  }
});

Deno.test("rounding activations to 16 bits costs a small part of what rounding weights to 8 bits does", () => {
  const shape: ProductShape = { m: 4, n: 64, groups: 8, group: 128, width: 8 }, spec = productKernel(shape);
  const at = (name: string) => spec.buffers.findIndex((own) => own.name === name), rng = random(1, "weights");
  const buffers = productBuffers(spec, shape, rng);
  const [scale, x] = ["scale", "x"].map((name) => buffers[at(name)]) as [Float32Array, Float32Array];
  const { found, want } = results(shape, buffers, { relaxed: true });
  const own = want.reduce((sum, value, i) => sum + (value - (found[i] ?? NaN)) ** 2, 0);
  // A weight is off by a uniform part of the grid's unit.
  let weights = 0;
  for (let i = 0; i < 4 * 64; i++) {
    const row = Math.floor(i / 64), column = i % 64;
    for (let k = 0; k < 8 * 128; k++) {
      weights += ((x[row * 1024 + k] ?? 0) * (scale[column * 8 + Math.floor(k / 128)] ?? 0)) ** 2 / 12;
    }
  }
  assert(own < weights / 400, `${own} and ${weights}`);
});

Deno.test("f32 activations that are not finite give results that are not finite", () => {
  for (const value of [NaN, Infinity, -Infinity]) {
    for (const [groups, width] of [[1, 4], [3, 4], [1, 8], [3, 8]] as const) {
      for (const mode of MODES) {
        const shape: ProductShape = { m: 1, n: 4, groups, group: 128, width }, spec = productKernel(shape);
        const buffers = productBuffers(spec, shape, random(1, "not finite"));
        (buffers[spec.buffers.findIndex(({ name }) => name === "x")] as Float32Array)[7] = value;
        const y = runSpec(spec, buffers, mode)[spec.buffers.findIndex(({ use }) => use === "write")] ?? [];
        assert([...y].every((one) => !Number.isFinite(one)), `${value} gives ${y}, ${mode.name}`);
      }
    }
  }
});

Deno.test("products with codes use byte products where the machine has them, and never otherwise", () => {
  for (const width of WIDTHS) {
    for (const activation of [undefined, 4, 8]) {
      for (const group of [32, 128, 172]) {
        for (const m of [1, 9]) {
          const spec = productKernel({ m, n: 64, groups: 1, group, width, activation });
          const text = (relaxed: boolean, fours = relaxed) => printKernel(spec, { relaxed, fours, shared: false });
          // Many rows of f32 go faster in f32 where bytes take more than three products.
          const bytes = (relaxed: boolean) => m === 1 || activation !== undefined || (relaxed && width < 8);
          const where = `${m} rows, ${width} bits, groups of ${group}`;
          assertEquals(text(true).includes("i32x4.relaxed_dot_i8x16_i7x16_add_s"), bytes(true), where);
          // Without that instruction words are multiplied by few rows of 8 bits, and where bytes take several instructions.
          const hasPairs = bytes(true) && (m > 1 || width < 8);
          assertEquals(text(true, false).includes("i16x8.relaxed_dot_i8x16_i7x16_s"), hasPairs, where);
          assertEquals(text(false).includes("i32x4.dot_i16x8_s"), bytes(false), where);
          assert(!text(false).includes("relaxed"), where);
          const generated = () => generateKernel(spec, { relaxed: true, shared: true }).bytes;
          assertEquals(generated(), generated());
        }
      }
    }
  }
});
