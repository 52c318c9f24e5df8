/** Every kind of kernel against the interpreter of kernel specifications, on random kernels. */
import { assert, assertEquals } from "@std/assert";
import * as fc from "fast-check";
import type { HostArray } from "../../../backends/backend.ts";
import type { Expr, KernelSpec } from "../../../backends/kernel.ts";
import { hadamardTransform } from "../../../ir/hadamard.ts";
import { random } from "../../../ir/random.ts";
import { tensorType } from "../../../ir/types.ts";
import { halfKernel } from "../../support/half_kernel.ts";
import { interpretKernel } from "../../support/interpret_kernel.ts";
import { randomKernel } from "../../support/random_kernels.ts";
import { runSpec } from "./run_spec.ts";

/** The values that a kernel writes are those of the interpreter, but for the rounding of f32. */
function assertClose(spec: KernelSpec, found: readonly HostArray[], expected: readonly HostArray[]): void {
  spec.buffers.forEach(({ name, type }, i) => {
    const a = found[i] as HostArray, b = expected[i] as HostArray;
    assertEquals(a.length, b.length);
    const scale = Array.from(b).reduce((most, x) => Number.isFinite(x) ? Math.max(most, Math.abs(x)) : most, 1);
    b.forEach((want, at) => {
      const got = a[at] ?? 0;
      const allowed = type.dtype === "f32" ? 2e-5 * scale : type.dtype === "f16" ? 1e-3 * Math.abs(want) + 1e-5 : 0;
      assert(
        Object.is(got, want) || got === want || Math.abs(got - want) <= allowed,
        `${name} (${type.dtype}[${type.shape}])[${at}]: expected ${want} but found ${got}`,
      );
    });
  });
}

const KINDS = ["map", "row", "dot", "attention", "topK"] as const;
const SEEDS = fc.noShrink(fc.integer({ min: 0, max: 2 ** 31 - 1 }));
for (const kind of KINDS) {
  for (const relaxed of [false, true]) {
    Deno.test(`${kind} kernels do what the interpreter does${relaxed ? ", with relaxed SIMD" : ""}`, () => {
      fc.assert(
        fc.property(SEEDS, (seed) => {
          const { spec, buffers } = randomKernel(kind, seed), expected = buffers.map((values) => values.slice());
          interpretKernel(spec, expected);
          assertClose(spec, runSpec(spec, buffers, { relaxed }), expected);
        }),
        { numRuns: kind === "dot" ? 50 : 150, seed: 1 },
      );
    });
  }

  Deno.test(`${kind} kernels give the same bits on one, two and three threads`, () => {
    fc.assert(
      fc.property(SEEDS, (seed) => {
        const { spec, buffers } = randomKernel(kind, seed), one = runSpec(spec, buffers);
        assertEquals(runSpec(spec, buffers, { threads: 2 }), one);
        assertEquals(runSpec(spec, buffers, { threads: 3 }), one);
      }),
      { numRuns: 60, seed: 2 },
    );
  });
}

Deno.test("attention takes nothing from keys before the window, whatever they hold, nor where the window lies behind all", () => {
  for (
    const { window, positions, seen } of [{ window: 2, positions: [6, 7, 8], seen: 5 }, {
      window: 1,
      positions: [9, 12, 9],
      seen: 9,
    }]
  ) {
    const f32 = (...shape: number[]) => tensorType("f32", shape);
    const load = (buffer: number, ...strides: number[]): Expr => ({
      kind: "load",
      buffer,
      access: { offset: 0, strides },
      scalar: "f32",
    });
    // Doubled, so that rows are evaluated into scratch memory first.
    const doubled = (x: Expr): Expr => ({ kind: "map", op: "add", args: [x, x], scalar: "f32" });
    for (const rows of [load(1, 36, 4, 4, 1), doubled(load(1, 36, 4, 4, 1))]) {
      const spec: KernelSpec = {
        kind: "attention",
        name: "windowed",
        fuses: "",
        buffers: [
          { name: "q", type: f32(1, 3, 1, 4), use: "read" },
          { name: "k", type: f32(1, 9, 1, 4), use: "read" },
          { name: "positions", type: tensorType("i32", [1, 3]), use: "read" },
          { name: "output", type: f32(1, 3, 1, 4), use: "write" },
          { name: "logSumExp", type: f32(1, 3, 1), use: "write" },
        ],
        ...{
          batch: 1,
          tokens: 3,
          context: 9,
          heads: 1,
          kvHeads: 1,
          width: 4,
          valueWidth: 4,
          scale: 0.5,
          causal: true,
          window,
        },
        q: load(0, 12, 4, 4, 1),
        k: rows,
        v: rows,
        positions: { kind: "load", buffer: 2, access: { offset: 0, strides: [3, 1] }, scalar: "i32" },
        results: [{ of: "output", buffer: 3 }, { of: "logSumExp", buffer: 4 }],
      };
      const keys = Float32Array.from({ length: 36 }, (_, i) => i < 4 * seen ? NaN : Math.sin(i));
      const queries = Float32Array.from({ length: 12 }, (_, i) => Math.cos(i));
      const buffers: HostArray[] = [
        queries,
        keys,
        Int32Array.from(positions),
        new Float32Array(12),
        new Float32Array(3),
      ];
      const expected = buffers.map((values) => values.slice());
      interpretKernel(spec, expected);
      assertEquals(expected[4]?.every(Number.isFinite), seen < 9);
      assertClose({ ...spec, buffers: spec.buffers.slice(3) }, runSpec(spec, buffers).slice(3), expected.slice(3));
    }
  }
});

/** Sums, extrema and a centred copy of long rows, which lie along memory or across it. */
function longRows(across: boolean): { spec: KernelSpec; buffers: HostArray[] } {
  const [outer, n] = [6, 1501], f32 = (...shape: number[]) => tensorType("f32", shape);
  const strides = across ? [1, outer] : [n, 1], access = { offset: 0, strides }, perRow = { offset: 0, strides: [1] };
  const x: Expr = { kind: "load", buffer: 0, access, scalar: "f32" };
  const value = (id: number): Expr => ({ kind: "value", id, scalar: "f32" });
  const reduction = (id: number, op: "sum" | "max" | "min") => ({ id, op, value: x, scalar: "f32" as const });
  const none = { elements: [], reductions: [], stores: [], scalars: [], transforms: [], rowStores: [] };
  const spec: KernelSpec = {
    kind: "row",
    name: "long",
    fuses: "",
    buffers: [
      { name: "x", type: f32(outer * n), use: "read" },
      { name: "sum", type: f32(outer), use: "write" },
      { name: "range", type: f32(outer), use: "write" },
      { name: "centred", type: f32(outer * n), use: "write" },
    ],
    outer: [outer],
    row: [n],
    phases: [{
      ...none,
      reductions: [reduction(0, "sum"), reduction(1, "max"), reduction(2, "min")],
      rowStores: [
        { buffer: 1, access: perRow, value: value(0) },
        { buffer: 2, access: perRow, value: { kind: "map", op: "sub", args: [value(1), value(2)], scalar: "f32" } },
      ],
    }, {
      ...none,
      stores: [{ buffer: 3, access, value: { kind: "map", op: "sub", args: [x, value(1)], scalar: "f32" } }],
    }],
  };
  const buffers = spec.buffers.map(({ type }) => new Float32Array(Number(type.shape[0])));
  const values = buffers[0] as Float32Array, stream = random(4, "long rows");
  values.forEach((_, i) => values[i] = stream.normal());
  return { spec, buffers };
}

for (const across of [false, true]) {
  Deno.test(`row kernels sum long rows ${across ? "across" : "along"} memory in blocks`, () => {
    const { spec, buffers } = longRows(across), expected = buffers.map((values) => values.slice());
    interpretKernel(spec, expected);
    const found = runSpec(spec, buffers);
    assertClose(spec, found, expected);
    assertEquals(runSpec(spec, buffers, { threads: 2 }), found);
  });
}

Deno.test("generateKernel() keeps loads that no select takes inside their buffers", () => {
  // The second half of a concatenation reads its source far in front of it, and the first half behind its end.
  const n = 40_000, f32 = (size: number) => tensorType("f32", [size]);
  const load = (buffer: number, offset: number, stride: number): Expr => ({
    kind: "load",
    buffer,
    access: { offset, strides: [stride] },
    scalar: "f32",
  });
  const index: Expr = { kind: "index", access: { offset: 0, strides: [1] }, scalar: "i32" };
  const first: Expr = {
    kind: "map",
    op: "compare",
    direction: "lt",
    args: [index, { kind: "constant", value: 3, scalar: "i32" }],
    scalar: "bool",
  };
  const value: Expr = { kind: "map", op: "select", args: [first, load(0, 0, 2), load(1, -3, 1)], scalar: "f32" };
  const spec: KernelSpec = {
    kind: "map",
    name: "concat",
    fuses: "",
    buffers: [
      { name: "a", type: f32(6), use: "read" },
      { name: "b", type: f32(n - 3), use: "read" },
      { name: "y", type: f32(n), use: "write" },
    ],
    dims: [n],
    stores: [{ buffer: 2, access: { offset: 0, strides: [1] }, value }],
  };
  const buffers = [
    Float32Array.of(1, 0, 2, 0, 3, 0),
    Float32Array.from({ length: n - 3 }, (_, i) => i),
    new Float32Array(n),
  ];
  const expected = buffers.map((values) => values.slice());
  interpretKernel(spec, expected);
  assertEquals(runSpec(spec, buffers), expected);
});

/** Transforms every row of [outer, n], which lie along memory or across it. */
function transformKernel(outer: number, n: number, transposed: boolean, across: boolean): KernelSpec {
  const type = tensorType("f32", [outer * n]), access = { offset: 0, strides: across ? [1, outer] : [n, 1] };
  const none = { elements: [], reductions: [], stores: [], scalars: [], transforms: [], rowStores: [] };
  const x: Expr = { kind: "load", buffer: 0, access, scalar: "f32" };
  return {
    kind: "row",
    name: "transform",
    fuses: "",
    buffers: [{ name: "x", type, use: "read" }, { name: "y", type, use: "write" }],
    outer: [outer],
    row: [n],
    phases: [
      { ...none, elements: [{ id: 0, value: x, keep: true }], transforms: [{ id: 1, source: 0, transposed }] },
      { ...none, stores: [{ buffer: 1, access, value: { kind: "value", id: 1, scalar: "f32" } }] },
    ],
  };
}

Deno.test("row kernels transform rows of every kind of length", () => {
  const stream = random(5, "transforms");
  for (const n of [1, 2, 4, 8, 12, 24, 48, 128, 172, 344, 688]) {
    for (const transposed of [false, true]) {
      const rows = Float32Array.from({ length: 5 * n }, () => stream.normal());
      const expected = hadamardTransform(rows, { rowLength: n, transposed });
      const along = runSpec(transformKernel(5, n, transposed, false), [rows, new Float32Array(5 * n)])[1] as HostArray;
      const turned = rows.map((_, i) => rows[i % 5 * n + Math.floor(i / 5)] ?? 0);
      const across = runSpec(transformKernel(5, n, transposed, true), [
        turned,
        new Float32Array(5 * n),
      ])[1] as HostArray;
      expected.forEach((want, i) => {
        const where = `element ${i % n} of row ${Math.floor(i / n)} of ${n}, transposed ${transposed}`;
        assert(Math.abs((along[i] ?? NaN) - want) < 1e-5, `along, ${where}: expected ${want} but found ${along[i]}`);
        const found = across[i % n * 5 + Math.floor(i / n)];
        assert(Math.abs((found ?? NaN) - want) < 1e-5, `across, ${where}: expected ${want} but found ${found}`);
      });
    }
  }
});

Deno.test("kernels round to the nearest half, ties to even, subnormal ones and overflow included", () => {
  for (const values of [undefined, [65520, -65520, 1e30, Infinity, -Infinity, NaN, 1e-40]]) {
    const { spec, buffers } = halfKernel(values), expected = buffers.map((data) => data.slice());
    interpretKernel(spec, expected);
    assertEquals(runSpec(spec, buffers), expected);
  }
});

Deno.test("row kernels give NaN where a row holds one, as its largest and as its least value", () => {
  for (const length of [1, 7, 40, 1100]) {
    const load: Expr = { kind: "load", buffer: 0, access: { offset: 0, strides: [length, 1] }, scalar: "f32" };
    const reduction = (id: number, op: "max" | "min") => ({ id, op, scalar: "f32", value: load }) as const;
    const store = (id: number, buffer: number) =>
      ({ buffer, access: { offset: 0, strides: [1, 0] }, value: { kind: "value", id, scalar: "f32" } }) as const;
    const spec: KernelSpec = {
      kind: "row",
      name: "extremes",
      fuses: "",
      buffers: [
        { name: "x", type: { dtype: "f32", shape: [3, length] }, use: "read" },
        { name: "most", type: { dtype: "f32", shape: [3] }, use: "write" },
        { name: "least", type: { dtype: "f32", shape: [3] }, use: "write" },
      ],
      outer: [3],
      row: [length],
      phases: [{
        elements: [],
        reductions: [reduction(0, "max"), reduction(1, "min")],
        scalars: [],
        transforms: [],
        stores: [],
        rowStores: [store(0, 1), store(1, 2)],
      }],
    };
    const x = Float32Array.from({ length: 3 * length }, (_, i) => (i * 7) % 11 - 5);
    x[length + (length >> 1)] = NaN;
    const expected = (of: (...values: number[]) => number) =>
      Float32Array.from([0, 1, 2], (row) => of(...x.subarray(row * length, (row + 1) * length)));
    const [, most, least] = runSpec(spec, [x, new Float32Array(3), new Float32Array(3)]);
    assertEquals(most, expected(Math.max));
    assertEquals(least, expected(Math.min));
  }
});
