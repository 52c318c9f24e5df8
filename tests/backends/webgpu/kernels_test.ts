/** Generated kernels of every kind against the interpreter of specifications, on a device, and through Tint. */
import { assert, assertEquals } from "@std/assert";
import * as fc from "fast-check";
import type { RowKernel } from "../../../backends/kernel.ts";
import { generateKernel } from "../../../backends/webgpu/kernel.ts";
import { PORTABLE } from "../../../backends/webgpu/traits.ts";
import { random } from "../../../ir/random.ts";
import { tensorType } from "../../../ir/types.ts";
import { openTestGpu } from "../../gpu.ts";
import { halfKernel } from "../../support/half_kernel.ts";
import { NARROW, type RandomKernel, randomKernels, valueOf } from "../../support/random_kernels.ts";
import { richTraits } from "./rich_traits.ts";
import { checkKernel, runKernel } from "./run_kernel.ts";
import { copyMap } from "./specs.ts";

/** Software devices take a tenth of a second and more for each kernel. */
const RUNS = { map: 16, row: 14, dot: 14, attention: 10, topK: 12 };

for (const kind of ["map", "row", "dot", "attention", "topK"] as const) {
  Deno.test(`${kind} kernels compute what their specifications say, on random ones`, async () => {
    const device = await openTestGpu();
    if (!device) return;
    await fc.assert(
      fc.asyncProperty(randomKernels(kind), (kernel) => checkKernel(device, kernel)),
      { numRuns: RUNS[kind], seed: 11 },
    );
    device.destroy();
  });
}

Deno.test("kernels compute the same where halves are read as such and invocations exchange registers", async () => {
  const device = await openTestGpu();
  if (!device) return;
  const [four, eight] = [await richTraits(device, PORTABLE, 4), await richTraits(device, PORTABLE)];
  for (const kind of ["map", "row", "dot"] as const) {
    await fc.assert(
      fc.asyncProperty(
        randomKernels(kind),
        fc.constantFrom(four, eight),
        (kernel, traits) => checkKernel(device, kernel, 1e-5, traits),
      ),
      { numRuns: RUNS[kind], seed: 5 },
    );
  }
  for (const [n, transposed] of [[8, false], [128, true], [172, false], [2048, false], [5120, true]] as const) {
    await checkKernel(device, transformKernel(n, 2, transposed), 1e-5, eight);
  }
  device.destroy();
});

Deno.test("every narrow type is read and written in whole words, rows in between and at the end", async () => {
  const device = await openTestGpu();
  if (!device) return;
  for (const dtype of NARROW) {
    const kernel = copyMap(dtype, [3, 172]);
    const text = await runKernel(device, kernel);
    assert(!text.includes("atomic"), `${dtype}: words are shared\n${text}`);
    assertEquals(kernel.buffers[1], kernel.buffers[0], dtype);
  }
  device.destroy();
});

/** A row kernel that only transforms. */
function transformKernel(n: number, rows: number, transposed: boolean): RandomKernel {
  const draw = random(3, `transform.${n}`),
    type = tensorType("f32", [rows, n]),
    access = { offset: 0, strides: [n, 1] };
  const empty = { elements: [], reductions: [], stores: [], scalars: [], transforms: [], rowStores: [] };
  const spec: RowKernel = {
    kind: "row",
    name: `hadamard_${n}`,
    fuses: "",
    buffers: [
      { name: "x", type, use: "read" },
      { name: "signs", type: tensorType("f32", [n]), use: "read" },
      { name: "y", type, use: "write" },
    ],
    outer: [rows],
    row: [n],
    phases: [
      {
        ...empty,
        elements: [{ id: 0, value: { kind: "load", buffer: 0, access, scalar: "f32" }, keep: true }],
        transforms: [{ id: 1, source: 0, transposed, signs: 1 }],
      },
      { ...empty, stores: [{ buffer: 2, access, value: valueOf(1) }] },
    ],
  };
  const numbers = (count: number, next: () => number) => Float32Array.from({ length: count }, next);
  return {
    spec,
    buffers: [numbers(rows * n, () => draw.normal()), numbers(n, () => draw.sign()), new Float32Array(rows * n)],
  };
}

Deno.test("rows of 172, of more than workgroup memory holds, and of K · 2^m are transformed", async () => {
  const device = await openTestGpu();
  if (!device) return;
  for (const [n, transposed] of [[172, false], [172, true], [8192, false], [5120, true], [11008, true]] as const) {
    await checkKernel(device, transformKernel(n, 2, transposed));
  }
  device.destroy();
});

Deno.test("codes of rows that do not fit workgroup memory are written all the same", async () => {
  const device = await openTestGpu();
  if (!device) return;
  const { spec, buffers } = transformKernel(256, 3, false), row = spec as RowKernel;
  const code = {
    kind: "map" as const,
    op: "cast" as const,
    args: [{ kind: "map" as const, op: "round" as const, args: [valueOf(0)], scalar: "f32" as const }],
    scalar: "i32" as const,
    range: [0, 7] as const,
  };
  const store = { buffer: 2, access: { offset: 0, strides: [256, 1] }, value: code };
  const kernel: RandomKernel = {
    spec: {
      ...row,
      buffers: row.buffers.map((buffer, i) => i === 2 ? { ...buffer, type: tensorType("u3", [3, 256]) } : buffer),
      phases: [{ ...(row.phases[0] as RowKernel["phases"][number]), transforms: [], stores: [store] }],
    },
    buffers: [...buffers.slice(0, 2), new Int32Array(3 * 256)],
  };
  assert(generateKernel(kernel.spec).text.includes("y_words"), "staged where it fits");
  assert(
    !generateKernel(kernel.spec, { ...PORTABLE, workgroupBytes: 64 }).text.includes("y_words"),
    "not staged where it does not",
  );
  await checkKernel(device, kernel);
  await checkKernel(device, kernel, undefined, { ...PORTABLE, workgroupBytes: 64 });
  device.destroy();
});

Deno.test("grids of more than 65535 workgroups are folded", async () => {
  const device = await openTestGpu();
  if (!device) return;
  const { spec, buffers } = transformKernel(1, 70001, false), row = spec as RowKernel;
  const [first, second] = row.phases as [RowKernel["phases"][number], RowKernel["phases"][number]];
  const store = { buffer: 2, access: { offset: 0, strides: [1, 1] }, value: valueOf(0) };
  const kernel = { spec: { ...row, phases: [{ ...first, transforms: [] }, { ...second, stores: [store] }] }, buffers };
  const { dispatches } = generateKernel(kernel.spec);
  assertEquals(dispatches[0]?.grid, [35001, 2, 1]);
  await checkKernel(device, kernel);
  device.destroy();
});

Deno.test("kernels round to the nearest half, ties to even, subnormal ones included", async () => {
  const device = await openTestGpu();
  if (!device) return;
  await checkKernel(device, halfKernel(), 0);
  device.destroy();
});
