/**
 * Random contractions as models have them: codes of any width with a scale and zero point per group, or floats, times few rows or many;
 * in floats, or in whole numbers with the scale behind the sum. Values are small multiples of powers of two, so that sums are exact.
 */
import * as fc from "fast-check";
import { hostArray } from "../../../backends/backend.ts";
import type { DotKernel, Expr, KernelBuffer } from "../../../backends/kernel.ts";
import { random } from "../../../ir/random.ts";
import { type DType, isFloat, rangeOf, sizeOf, tensorType } from "../../../ir/types.ts";
import { apply, cast, NARROW, number, type RandomKernel, valueOf } from "../../support/random_kernels.ts";

/** Sizes that a stream is drawn from. */
export interface StreamSizes {
  readonly few: readonly number[];
  readonly many: readonly number[];
  readonly groups: readonly (readonly [groups: number, length: number])[];
}

/** Few rows, and lengths that leave lanes idle, fill them, and go around several times. */
export const SMALL_SIDES: StreamSizes = {
  few: [1, 1, 1, 2, 3, 5, 8],
  many: [9, 24, 70],
  groups: [[1, 128], [2, 64], [3, 32], [4, 128], [1, 256], [9, 128], [16, 32]],
};

/** Many rows, for tiles of several sizes, whole and ragged. */
export const LARGE_SIDES: StreamSizes = {
  few: [17, 33, 66, 70],
  many: [24, 70, 130],
  groups: [[1, 64], [2, 32], [1, 20], [3, 12], [1, 160]],
};

/** Seeded random contractions. */
export const randomStreams = (sizes: StreamSizes): fc.Arbitrary<RandomKernel> =>
  fc.noShrink(fc.integer({ min: 0, max: 2 ** 31 - 1 })).map((seed) => randomStream(seed, sizes));

/** The random contraction with a seed. */
export function randomStream(seed: number, sizes: StreamSizes): RandomKernel {
  const draw = random(seed, "stream"), pick = <T>(list: readonly T[]): T => list[draw.int(list.length)] as T;
  const buffers: KernelBuffer[] = [], values: RandomKernel["buffers"] = [];
  const [groups, length] = pick(sizes.groups), few = pick(sizes.few), many = pick(sizes.many);
  const whole = draw.uniform() < 0.5, swapped = draw.uniform() < 0.2, batch = pick([1, 1, 2]);
  const dtype = pick<DType>(whole ? NARROW : [...NARROW, "f32", "f16"]), k = [groups, length];
  const add = (name: string, type: DType, shape: readonly number[], use: KernelBuffer["use"], value?: () => number) => {
    const data = hostArray(type, sizeOf(shape));
    if (value) { for (let i = 0; i < data.length; i++) data[i] = value(); }
    values.push(data);
    return buffers.push({ name, type: tensorType(type, shape), use }) - 1;
  };
  const load = (buffer: number, strides: readonly number[]): Expr => ({
    kind: "load",
    buffer,
    access: { offset: 0, strides },
    scalar: isFloat(buffers[buffer]?.type.dtype ?? "f32") ? "f32" : "i32",
  });
  const code = (type: DType) => () => {
    const [low, high] = rangeOf(type);
    return low + draw.int(high - low + 1);
  };
  const size = groups * length;
  const x = add("x", "f32", [batch, few, size], "read", () => (draw.int(33) - 16) / 8);
  const weights = add(
    "w.codes",
    dtype,
    [batch, many, groups, length],
    "read",
    isFloat(dtype) ? () => (draw.int(17) - 8) / 4 : code(dtype),
  );
  const perGroup = [batch, many, groups];
  const scale = add("w.scale", pick(["f32", "f16"]), perGroup, "read", () => 2 ** -draw.int(3));
  const zero = add("w.zero", "f32", perGroup, "read", () => draw.int(8));
  const inRow = [length, 1], perRow = [many * groups, groups, 1];
  const codes = load(weights, [many * size, size, ...inRow]), floats = load(x, [few * size, size, ...inRow]);
  const activations = pick<DType>(dtype === "u8" ? ["i8"] : ["i8", "u8", "i4"]), [low, high] = rangeOf(activations);
  const fits = dtype.startsWith("u") || high <= 127 ? activations : "i8";
  const small: Expr = whole
    ? cast(apply("round", apply("mul", floats, number(low < 0 || high > 0 ? 8 : 1))), fits)
    : draw.uniform() < 0.5
    ? floats
    : apply("mul", floats, number(0.5));
  const source = isFloat(dtype) ? codes : cast(codes, "f32");
  const centred = draw.uniform() < 0.8 ? apply("sub", source, load(zero, [...perRow, 0])) : source;
  const large = whole ? codes : draw.uniform() < 0.8 ? apply("mul", centred, load(scale, [...perRow, 0])) : centred;
  const grouped = whole && draw.uniform() < 0.7;
  const place = swapped ? [many * groups, groups, 0, 1] : [many * groups, 0, groups, 1];
  const term = apply(
    "mul",
    cast(apply("sub", valueOf(1, "i32"), cast(load(zero, place), "i32")), "f32"),
    load(scale, place),
  );
  const [m, n] = swapped ? [many, few] : [few, many];
  const y = add("y", "f32", [batch, m, n], "write");
  const sum = whole && !grouped ? cast(valueOf(0, "i32"), "f32") : valueOf(0);
  const spec: DotKernel = {
    kind: "dot",
    name: "stream",
    fuses: `random stream ${seed}`,
    buffers,
    batch,
    m,
    n,
    k: grouped ? k : draw.uniform() < 0.5 || groups > 1 ? k : [size],
    scalar: whole ? "i32" : "f32",
    lhs: swapped ? large : small,
    rhs: swapped ? small : large,
    accumulator: 0,
    ...(grouped ? { groups: { inner: 1, term } } : {}),
    stores: [{ buffer: y, access: { offset: 0, strides: [m * n, n, 1] }, value: sum }],
  };
  return { spec: spec.k.length === k.length ? spec : flat(spec), buffers: values };
}

/** The same with one contracted axis, where there is one group. */
function flat(spec: DotKernel): DotKernel {
  const drop = (e: Expr): Expr =>
    e.kind === "load"
      ? { ...e, access: { ...e.access, strides: [...e.access.strides.slice(0, 2), e.access.strides[3] ?? 0] } }
      : e.kind === "map"
      ? { ...e, args: e.args.map(drop) }
      : e;
  return { ...spec, lhs: drop(spec.lhs), rhs: drop(spec.rhs) };
}
