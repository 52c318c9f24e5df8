/** How narrow integers and halves lie in memory, and that kernels read and write them there. */
import { assertEquals } from "@std/assert";
import * as fc from "fast-check";
import { type HostArray, hostArray } from "../../../backends/backend.ts";
import type { KernelSpec } from "../../../backends/kernel.ts";
import { decode, encode } from "../../../backends/wasm/host_values.ts";
import { bytesOf, layoutOf } from "../../../backends/wasm/layout.ts";
import { halfValue } from "../../../ir/numerics.ts";
import {
  type DType,
  DTYPES,
  isFloat,
  isNarrow,
  rangeOf,
  sizeOf,
  type TensorType,
  tensorType,
} from "../../../ir/types.ts";
import { runSpec } from "./run_spec.ts";

const SHAPES: readonly (readonly number[])[] = [[], [1], [3], [33], [2, 172], [5, 32], [3, 1], [2, 3, 7], [4, 64], [
  3,
  128,
], [
  2,
  300,
]];

/** Values of a type from any numbers: codes over their whole range, halves that halves can hold. */
function valuesOf(type: TensorType, numbers: readonly number[]): HostArray {
  const values = hostArray(type.dtype, sizeOf(type.shape));
  const [low, high] = isNarrow(type.dtype) ? rangeOf(type.dtype) : type.dtype === "bool" ? [0, 1] : [-1000, 1000];
  return values.map((_, i) => {
    const x = numbers[i % Math.max(numbers.length, 1)] ?? 0;
    return type.dtype === "f16" ? halfValue(x % 0x7c00) : isFloat(type.dtype) ? x / 8 : low + x % (high - low + 1);
  }) as HostArray;
}

const types = fc.tuple(fc.constantFrom(...DTYPES), fc.constantFrom(...SHAPES)).map(([dtype, shape]) =>
  tensorType(dtype, shape)
);
const numbers = fc.array(fc.integer({ min: 0, max: 65535 }), { minLength: 1, maxLength: 97 });

Deno.test("decode() inverts encode() for every type and shape", () => {
  fc.assert(fc.property(types, numbers, (type, drawn) => {
    const values = valuesOf(type, drawn), memory = new ArrayBuffer(bytesOf(type) + 128);
    new Uint8Array(memory).fill(0xff);
    encode(type, values, memory, 64);
    assertEquals(decode(type, memory, 64), values);
  }));
});

Deno.test("encode() stores codes in exactly their width, rows padded to blocks of 32", () => {
  const bytes = (dtype: DType, shape: readonly number[]) => layoutOf(tensorType(dtype, shape)).bytes;
  for (const width of [2, 3, 4, 5, 6, 7]) assertEquals(bytes(`u${width}` as DType, [3, 64]), 3 * 64 * width / 8);
  assertEquals(bytes("u3", [2, 33]), 2 * 64 * 3 / 8);
  assertEquals([bytes("u8", [3, 5]), bytes("i4", [3, 5]), bytes("f16", [3, 5]), bytes("bool", [3, 5])], [
    15,
    15,
    30,
    60,
  ]);
});

Deno.test("encode() lays codes in slots of planes, sixteen elements side by side, eight or four where a row ends", () => {
  const bytesWith = (columns: number, element: number, code: number) => {
    const type = tensorType("u3", [columns]), memory = new ArrayBuffer(bytesOf(type)), values = new Int32Array(columns);
    values[element] = code;
    encode(type, values, memory, 0);
    return [...new Uint8Array(memory, 0, layoutOf(type).bytes).entries()].filter(([, byte]) => byte !== 0);
  };
  // Slots 6 and 7 are what the mean of three planes shows in bits 0 … 2 and 4 … 6, where spare bits halve once, twice, three times.
  assertEquals(bytesWith(128, 6 * 16 + 2, 6), [[2, 1 << 3], [16 + 2, 1 << 3]]);
  assertEquals(bytesWith(128, 7 * 16 + 15, 3), [[16 + 15, 1 << 7], [32 + 15, 1 << 7]]);
  // Slots 0 … 5 lie in those bits of planes; half of 7, rounded up, and the spare bit's 4 make 8, which no slot of the mean shows.
  assertEquals(bytesWith(128, 5, 7), [[5, 7 | 1 << 3]]);
  // Columns 128 … 191: planes of eight bytes.
  assertEquals(bytesWith(192, 128 + 6 * 8 + 1, 5), [[48 + 1, 1 << 3], [48 + 16 + 1, 1 << 3]]);
  // The last 32 of 160 columns: planes of four bytes.
  assertEquals(bytesWith(160, 128 + 6 * 4 + 1, 5), [[48 + 1, 1 << 3], [48 + 8 + 1, 1 << 3]]);
});

/** A kernel that copies a tensor, element by element, through the given order of its axes. */
function copyKernel(type: TensorType, turned: boolean): KernelSpec {
  const dims = type.shape.map(Number), strides = dims.map((_, i) => dims.slice(i + 1).reduce((a, b) => a * b, 1));
  const scalar = isFloat(type.dtype) ? "f32" : type.dtype === "bool" ? "bool" : "i32";
  const order = [...dims.keys()];
  if (turned) order.reverse();
  const access = { offset: 0, strides: order.map((axis) => strides[axis] ?? 1) };
  return {
    kind: "map",
    name: "copy",
    fuses: "",
    buffers: [{ name: "x", type, use: "read" }, { name: "y", type, use: "write" }],
    dims: order.map((axis) => dims[axis] ?? 1),
    stores: [{ buffer: 1, access, value: { kind: "load", buffer: 0, access, scalar } }],
  };
}

Deno.test("kernels copy tensors of every type, along rows and across them", () => {
  fc.assert(
    fc.property(types, numbers, fc.boolean(), (type, drawn, turned) => {
      const values = valuesOf(type, drawn), empty = hostArray(type.dtype, values.length);
      assertEquals(runSpec(copyKernel(type, turned), [values, empty])[1], values);
    }),
    { numRuns: 300 },
  );
});

Deno.test("kernels read every half and round to halves as the host does", () => {
  const type = tensorType("f16", [65536]), all = Float32Array.from({ length: 65536 }, (_, bits) => halfValue(bits));
  assertEquals(runSpec(copyKernel(type, false), [all, new Float32Array(65536)])[1], all);

  const single = tensorType("f32", [4096]), half = tensorType("f16", [4096]);
  const exponents = Float32Array.from(
    { length: 4096 },
    (_, i) => (i % 2 ? -1 : 1) * (1 + (i * 37 % 4096) / 4096) * 2 ** (i % 46 - 28),
  );
  const access = { offset: 0, strides: [1] };
  const spec: KernelSpec = {
    kind: "map",
    name: "halves",
    fuses: "",
    buffers: [{ name: "x", type: single, use: "read" }, { name: "y", type: half, use: "write" }],
    dims: [4096],
    stores: [{ buffer: 1, access, value: { kind: "load", buffer: 0, access, scalar: "f32" } }],
  };
  const memory = new ArrayBuffer(bytesOf(half));
  encode(half, exponents, memory, 0);
  assertEquals(runSpec(spec, [exponents, new Float32Array(4096)])[1], decode(half, memory, 0));
});
