/** Types of values: an element type and a shape. Storage layouts are not types; they belong to the backends. */
import { concreteDim, type Dim, multiplyDims, normalDim } from "./dim.ts";

/** Floating point, 32-bit integers, truth values, and the narrow integers that codes of quantizers are. */
export const DTYPES = [
  "f32",
  "f16",
  "i32",
  "bool",
  "u2",
  "u3",
  "u4",
  "u5",
  "u6",
  "u7",
  "u8",
  "i4",
  "i5",
  "i6",
  "i7",
  "i8",
] as const;

/** Element type of a value. */
export type DType = (typeof DTYPES)[number];
/** An element type of 2 to 8 bits: codes. */
export type NarrowType = Exclude<DType, "f32" | "f16" | "i32" | "bool">;
/** Widths a weight can have as integer codes. */
export type Width = 2 | 3 | 4 | 5 | 6 | 7 | 8;

/** Element type and shape of a value. */
export interface TensorType {
  readonly dtype: DType;
  readonly shape: readonly Dim[];
}

/** Checks and normalises a type. */
export function tensorType(dtype: DType, shape: readonly Dim[]): TensorType {
  return Object.freeze({ dtype, shape: Object.freeze(shape.map(normalDim)) });
}

/** Bits one value occupies when packed; truth values are counted as 32, which is how every backend holds them. */
export function bitsOf(dtype: DType): number {
  if (dtype === "f16") return 16;
  return isNarrow(dtype) ? Number(dtype.slice(1)) : 32;
}

/** Whether values of this type are integer codes of 2 to 8 bits. */
export function isNarrow(dtype: DType): dtype is NarrowType {
  return /^[ui][2-8]$/.test(dtype);
}

/** Whether the type is a floating-point one. */
export const isFloat = (dtype: DType): dtype is "f32" | "f16" => dtype === "f32" || dtype === "f16";
/** Whether the type holds integers (of any width). */
export const isInteger = (dtype: DType): boolean => dtype === "i32" || isNarrow(dtype);

/** Smallest and largest value of an integer type. */
export function rangeOf(dtype: DType): readonly [number, number] {
  if (dtype === "i32") return [-(2 ** 31), 2 ** 31 - 1];
  if (!isNarrow(dtype)) throw new TypeError(`Expected an integer type but found ${dtype}`);
  const bits = bitsOf(dtype);
  return dtype.startsWith("u") ? [0, 2 ** bits - 1] : [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1];
}

/** The unsigned code type of a width. */
export const unsignedType = (width: Width): NarrowType => `u${width}` as NarrowType;

/** Number of elements; the shape must be concrete. */
export const sizeOf = (shape: readonly Dim[]): number => concreteDim(multiplyDims([1, ...shape]));

/** The shape as numbers; throws when symbols are left in it. */
export const concreteShape = (shape: readonly Dim[]): readonly number[] => shape.map(concreteDim);

/** Whether two shapes are the same. */
export const sameShape = (a: readonly Dim[], b: readonly Dim[]): boolean =>
  a.length === b.length && a.every((dim, i) => dim === b[i]);

/** Whether two types are the same. */
export const sameType = (a: TensorType, b: TensorType): boolean => a.dtype === b.dtype && sameShape(a.shape, b.shape);

/** `f32[2,64]`, `u3[4*B,64]`. */
export const typeText = ({ dtype, shape }: TensorType): string => `${dtype}[${shape.join(",")}]`;

/** Inverse of `typeText`. */
export function parseType(text: string): TensorType {
  const match = /^([a-z]+\d*)\[([^\]]*)\]$/.exec(text.trim());
  const dtype = DTYPES.find((name) => name === match?.[1]);
  if (!match || !dtype) throw new SyntaxError(`Expected a type such as f32[2,64] but found "${text}"`);
  const list = (match[2] ?? "").trim(), dims = list === "" ? [] : list.split(",").map((dim) => dim.trim());
  return tensorType(dtype, dims.map((dim) => /^\d+$/.test(dim) ? Number(dim) : dim));
}
