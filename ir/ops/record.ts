/** What one record of the op table holds, and the helpers that records share. */
import type { Builder } from "../builder.ts";
import type { Dim } from "../dim.ts";
import type { Attrs, Node } from "../node.ts";
import { type DType, sameShape, sizeOf, type TensorType, tensorType, typeText } from "../types.ts";

/** How the region fuser treats an op. */
export type OpClass = "leaf" | "movement" | "map" | "reduce" | "row" | "dot" | "attention" | "state" | "marker";

/** Kinds of attributes, checked when a node is made. */
export type AttrKind = "number" | "text" | "flag" | "numbers" | "dims";

/** A value as the reference semantics sees it: plain doubles, row-major. Codes and truth values are exact in them. */
export interface Values {
  readonly type: TensorType;
  readonly data: Float64Array;
}

/** Everything there is to know about one operation. */
export interface OpRecord {
  /** One line with the formula. */
  readonly doc: string;
  readonly class: OpClass;
  /** Number of operands: exact, or at least and at most. */
  readonly arity: number | readonly [number, number];
  /** Attributes; a name that ends in `?` may be absent. */
  readonly attrs: Readonly<Record<string, AttrKind>>;
  /** Type of the result; throws an error that names operand and shapes. */
  infer(inputs: readonly TensorType[], attrs: Attrs): TensorType;
  /** Reference semantics in double precision; absent for leaves, whose values are given. */
  evaluate?(inputs: readonly Values[], attrs: Attrs, type: TensorType): Float64Array;
  /** Gradient of each operand given that of the result; `undefined` where nothing flows. Absent: no gradient at all. */
  vjp?(b: Builder, node: Node, dy: Node): readonly (Node | undefined)[];
  /** Arithmetic operations per call; by default one per element of the result. */
  operations?(inputs: readonly TensorType[], attrs: Attrs, type: TensorType): number;
}

/** An error about operands that do not fit. */
export const shapeError = (op: string, expected: string, found: readonly TensorType[]): TypeError =>
  new TypeError(`Cannot build ${op}: expected ${expected} but found ${found.map(typeText).join(" and ")}`);

/** The operand at `index`, which the arity check has already demanded. */
export function operand<T>(inputs: readonly T[], index: number): T {
  const value = inputs[index];
  if (value === undefined) {
    throw new RangeError(`Expected an operand number ${index} but found ${inputs.length} operands`);
  }
  return value;
}

/** Type of an elementwise result: all operands have one shape. */
export function elementwise(op: string, inputs: readonly TensorType[], dtype?: DType): TensorType {
  const first = operand(inputs, 0);
  if (inputs.some((t) => !sameShape(t.shape, first.shape))) throw shapeError(op, "operands of one shape", inputs);
  return tensorType(dtype ?? first.dtype, first.shape);
}

/** A shape attribute as dimensions. */
export const dimsOf = (list: readonly (number | string)[]): readonly Dim[] => list;

/** Row-major strides of a concrete shape. */
export function stridesOf(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length).fill(1);
  for (let i = shape.length - 2; i >= 0; i--) strides[i] = (strides[i + 1] ?? 1) * (shape[i + 1] ?? 1);
  return strides;
}

/** Copies the strided view (offset + Σ index·stride) of `data` into a fresh row-major array of `shape`. */
export function readStrided(
  data: Float64Array,
  shape: readonly number[],
  strides: readonly number[],
  offset: number,
): Float64Array {
  const result = new Float64Array(sizeOf(shape));
  const index = new Array<number>(shape.length).fill(0);
  let at = offset;
  for (let i = 0; i < result.length; i++) {
    result[i] = data[at] ?? 0;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      const stride = strides[axis] ?? 0, dim = shape[axis] ?? 1;
      at += stride;
      if ((index[axis] = (index[axis] ?? 0) + 1) < dim) break;
      at -= stride * dim;
      index[axis] = 0;
    }
  }
  return result;
}
