/** Small kernel specifications written by hand, for tests of the generated text. */
import type { DotKernel, Expr, KernelBuffer, MapKernel, RowKernel, RowPhase } from "../../../backends/kernel.ts";
import { hostArray } from "../../../backends/backend.ts";
import { type DType, rangeOf, sizeOf, tensorType } from "../../../ir/types.ts";
import { apply, cast, number, type RandomKernel, valueOf } from "../../support/random_kernels.ts";

const load = (buffer: number, strides: readonly number[], scalar: "f32" | "i32" = "f32"): Expr => ({
  kind: "load",
  buffer,
  access: { offset: 0, strides },
  scalar,
});
const buffer = (name: string, use: KernelBuffer["use"], dtype: DType, ...shape: number[]): KernelBuffer => ({
  name,
  type: tensorType(dtype, shape),
  use,
});

/** Copies codes of all values of a type. */
export function copyMap(dtype: DType, shape: readonly number[]): RandomKernel {
  const type = tensorType(dtype, shape),
    strides = shape.map((_, i) => sizeOf(shape.slice(i + 1))),
    values = hostArray(dtype, sizeOf(shape));
  const [low, high] = rangeOf(dtype);
  for (let i = 0; i < values.length; i++) values[i] = low + (i * 7 + (i >> 5)) % (high - low + 1);
  const access = { offset: 0, strides };
  return {
    spec: {
      kind: "map",
      name: "copy",
      fuses: "",
      buffers: [{ name: "from", type, use: "read" }, { name: "to", type, use: "write" }],
      dims: shape,
      stores: [{ buffer: 1, access, value: { kind: "load", buffer: 0, access, scalar: "i32" } }],
    },
    buffers: [values, hostArray(dtype, values.length)],
  };
}

/** silu(gate) · up, as codes of three bits. */
export const SILU: MapKernel = {
  kind: "map",
  name: "map_mul_4",
  fuses: "%3 = sigmoid %gate : f32[8,96]\n%4 = mul %3 %up : f32[8,96]",
  buffers: [
    buffer("gate", "read", "f32", 8, 96),
    buffer("layers.0.up", "read", "f16", 8, 96),
    buffer("codes", "write", "u3", 8, 96),
  ],
  dims: [8, 96],
  stores: [{
    buffer: 2,
    access: { offset: 0, strides: [96, 1] },
    value: cast(apply("round", apply("mul", apply("sigmoid", load(0, [96, 1])), load(1, [96, 1]))), "u3"),
  }],
};

const EMPTY: RowPhase = { elements: [], reductions: [], stores: [], scalars: [], transforms: [], rowStores: [] };

/** A row's codes of eight bits, with a scale. */
export const QUANTIZE: RowKernel = {
  kind: "row",
  name: "row_max_7",
  fuses: "%7 = max %6 axes=[1] : f32[5,1]",
  buffers: [
    buffer("x", "read", "f32", 5, 64),
    buffer("codes", "write", "i8", 5, 64),
    buffer("scale", "write", "f32", 5),
  ],
  outer: [5],
  row: [64],
  phases: [
    {
      ...EMPTY,
      elements: [{ id: 0, value: load(0, [64, 1]), keep: true }],
      reductions: [{ id: 1, op: "max", value: apply("abs", valueOf(0)), scalar: "f32" }],
      scalars: [{ id: 2, value: apply("maximum", apply("mul", valueOf(1), number(1 / 128)), number(1e-12)) }],
      rowStores: [{ buffer: 2, access: { offset: 0, strides: [1] }, value: valueOf(2) }],
    },
    {
      ...EMPTY,
      stores: [{
        buffer: 1,
        access: { offset: 0, strides: [64, 1] },
        value: cast(apply("round", apply("div", valueOf(0), valueOf(2))), "i8"),
      }],
    },
  ],
};

/** y = x · Wᵀ + residual with W in four bits and a scale for every 64 columns. */
export const MAT_VEC: DotKernel = {
  kind: "dot",
  name: "dot_dot_9",
  fuses: "%9 = dot %x %8 lhsContract=[1,2] rhsContract=[1,2] : f32[1,48]",
  buffers: [
    buffer("x", "read", "f32", 1, 256),
    buffer("down.weight", "read", "u4", 48, 256),
    buffer("down.scale", "read", "f16", 48, 4),
    buffer("residual", "read", "f32", 1, 48),
    buffer("y", "write", "f32", 1, 48),
  ],
  batch: 1,
  m: 1,
  n: 48,
  k: [4, 64],
  scalar: "f32",
  lhs: load(0, [256, 256, 64, 1]),
  rhs: apply("mul", apply("sub", cast(load(1, [0, 256, 64, 1], "i32"), "f32"), number(8)), load(2, [0, 4, 1, 0])),
  accumulator: 0,
  stores: [{
    buffer: 4,
    access: { offset: 0, strides: [48, 48, 1] },
    value: apply("add", valueOf(0), load(3, [48, 48, 1])),
  }],
};
