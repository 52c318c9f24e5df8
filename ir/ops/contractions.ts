/** `dot`, the general batched contraction, and `hadamard`, the orthonormal transform along an axis. */
import { attrsText } from "../attr_text.ts";
import { hadamardFactor, hadamardTransform } from "../hadamard.ts";
import { type Attrs, flagAttr, numberAttr, numbersAttr } from "../node.ts";
import { concreteShape, isFloat, isInteger, sizeOf, type TensorType, tensorType } from "../types.ts";
import { operand, type OpRecord, readStrided, shapeError, stridesOf } from "./record.ts";

/** The axes of both operands of a `dot`, by role. */
export interface DotAxes {
  readonly lhsBatch: readonly number[];
  readonly rhsBatch: readonly number[];
  readonly lhsContract: readonly number[];
  readonly rhsContract: readonly number[];
  readonly lhsFree: readonly number[];
  readonly rhsFree: readonly number[];
}

/** Reads the axes of a `dot` from its attributes and operand ranks. */
export function dotAxes(inputs: readonly TensorType[], attrs: Attrs): DotAxes {
  const list = (name: string) => attrs[name] === undefined ? [] : numbersAttr(attrs, name);
  const lhsBatch = list("lhsBatch"), rhsBatch = list("rhsBatch");
  const lhsContract = list("lhsContract"), rhsContract = list("rhsContract");
  const free = (type: TensorType, ...taken: (readonly number[])[]) =>
    type.shape.map((_, axis) => axis).filter((axis) => !taken.some((axes) => axes.includes(axis)));
  return {
    lhsBatch,
    rhsBatch,
    lhsContract,
    rhsContract,
    lhsFree: free(operand(inputs, 0), lhsBatch, lhsContract),
    rhsFree: free(operand(inputs, 1), rhsBatch, rhsContract),
  };
}

const dot: OpRecord = {
  doc: "y[batch…, lhsFree…, rhsFree…] = Σ over contracted axes of a · b; integers accumulate in i32, floats in f32",
  class: "dot",
  arity: 2,
  attrs: { "lhsBatch?": "numbers", "rhsBatch?": "numbers", lhsContract: "numbers", rhsContract: "numbers" },
  infer: (inputs, attrs) => {
    const a = operand(inputs, 0), b = operand(inputs, 1), axes = dotAxes(inputs, attrs);
    const paired = (left: readonly number[], right: readonly number[]) =>
      left.length === right.length && left.every((axis, i) => {
        const dim = a.shape[axis];
        return dim !== undefined && dim === b.shape[right[i] ?? -1];
      });
    const kinds = (isFloat(a.dtype) && isFloat(b.dtype)) || (isInteger(a.dtype) && isInteger(b.dtype));
    const once = (...lists: readonly (readonly number[])[]) => new Set(lists.flat()).size === lists.flat().length;
    const distinct = once(axes.lhsBatch, axes.lhsContract) && once(axes.rhsBatch, axes.rhsContract);
    if (!kinds || !distinct || !paired(axes.lhsBatch, axes.rhsBatch) || !paired(axes.lhsContract, axes.rhsContract)) {
      throw shapeError(
        "dot",
        `both float or both integer, with equal and distinct axes in {${attrsText(attrs)}},`,
        inputs,
      );
    }
    const pick = (type: TensorType, list: readonly number[]) => list.map((axis) => type.shape[axis] ?? 1);
    return tensorType(isInteger(a.dtype) ? "i32" : "f32", [
      ...pick(a, axes.lhsBatch),
      ...pick(a, axes.lhsFree),
      ...pick(b, axes.rhsFree),
    ]);
  },
  evaluate: (inputs, attrs, type) => {
    const a = operand(inputs, 0), b = operand(inputs, 1), axes = dotAxes([a.type, b.type], attrs);
    const arrange = (x: typeof a, order: readonly number[]) => {
      const shape = concreteShape(x.type.shape), strides = stridesOf(shape);
      return readStrided(x.data, order.map((i) => shape[i] ?? 1), order.map((i) => strides[i] ?? 0), 0);
    };
    const left = arrange(a, [...axes.lhsBatch, ...axes.lhsFree, ...axes.lhsContract]);
    const right = arrange(b, [...axes.rhsBatch, ...axes.rhsFree, ...axes.rhsContract]);
    const extent = (x: typeof a, list: readonly number[]) => sizeOf(list.map((axis) => x.type.shape[axis] ?? 1));
    const m = extent(a, axes.lhsFree), n = extent(b, axes.rhsFree), k = extent(a, axes.lhsContract);
    const result = new Float64Array(sizeOf(type.shape));
    for (let batch = 0, at = 0; at < result.length; batch++) {
      for (let i = 0; i < m; i++) {
        for (let j = 0; j < n; j++, at++) {
          const p = (batch * m + i) * k, q = (batch * n + j) * k;
          let sum = 0;
          for (let l = 0; l < k; l++) sum += (left[p + l] ?? 0) * (right[q + l] ?? 0);
          result[at] = sum;
        }
      }
    }
    return result;
  },
  vjp: (b, { inputs, attrs }, dy) => {
    const lhs = operand(inputs, 0), rhs = operand(inputs, 1);
    const axes = dotAxes([lhs.type, rhs.type], attrs);
    const batch = axes.lhsBatch.map((_, i) => i), lhsFree = axes.lhsFree.map((_, i) => batch.length + i);
    const rhsFree = axes.rhsFree.map((_, i) => batch.length + lhsFree.length + i);
    // dy · rhs leaves [batch, lhsFree, contracted axes in the order of rhs]; a transpose puts them where lhs has them.
    const restore = (
      product: ReturnType<typeof b.dot>,
      own: { batch: readonly number[]; free: readonly number[]; contract: readonly number[] },
      other: readonly number[],
    ) => {
      const order = [...other].sort((p, q) => p - q).map((axis) => own.contract[other.indexOf(axis)] ?? 0);
      const produced = [...own.batch, ...own.free, ...order];
      return b.transpose(product, produced.map((_, axis) => produced.indexOf(axis)));
    };
    const dLhs = b.dot(dy, rhs, {
      lhsBatch: batch,
      rhsBatch: axes.rhsBatch,
      lhsContract: rhsFree,
      rhsContract: axes.rhsFree,
    });
    const dRhs = b.dot(dy, lhs, {
      lhsBatch: batch,
      rhsBatch: axes.lhsBatch,
      lhsContract: lhsFree,
      rhsContract: axes.lhsFree,
    });
    return [
      b.cast(
        restore(dLhs, { batch: axes.lhsBatch, free: axes.lhsFree, contract: axes.lhsContract }, axes.rhsContract),
        lhs.type.dtype,
      ),
      b.cast(
        restore(dRhs, { batch: axes.rhsBatch, free: axes.rhsFree, contract: axes.rhsContract }, axes.lhsContract),
        rhs.type.dtype,
      ),
    ];
  },
  operations: (inputs, attrs, type) => {
    const axes = dotAxes(inputs, attrs);
    return 2 * sizeOf(type.shape) * sizeOf(axes.lhsContract.map((axis) => operand(inputs, 0).shape[axis] ?? 1));
  },
};

const hadamard: OpRecord = {
  doc:
    "y = T(ε∘x) along `axis`, T the orthonormal Hadamard transform, ε optional signs; transposed: y = ε∘Tᵀx, its inverse",
  class: "row",
  arity: [1, 2],
  attrs: { axis: "number", "transposed?": "flag" },
  infer: (inputs, attrs) => {
    const x = operand(inputs, 0), n = x.shape[numberAttr(attrs, "axis")], signs = inputs[1];
    if (x.dtype !== "f32" || typeof n !== "number") throw shapeError("hadamard", "f32 with a concrete axis", inputs);
    if (!hadamardFactor(n)) throw shapeError("hadamard", "an axis as long as a Hadamard matrix that is known", inputs);
    if (signs && (signs.shape.length !== 1 || signs.shape[0] !== n)) throw shapeError("hadamard", `${n} signs`, inputs);
    return x;
  },
  evaluate: (inputs, attrs, type) => {
    const x = operand(inputs, 0), axis = numberAttr(attrs, "axis"), transposed = flagAttr(attrs, "transposed");
    const shape = concreteShape(type.shape), n = shape[axis] ?? 1, stride = stridesOf(shape)[axis] ?? 1;
    const result = new Float64Array(x.data.length), row = new Float64Array(n), signs = inputs[1]?.data;
    for (let base = 0; base < x.data.length; base++) {
      if (Math.floor(base / stride) % n !== 0) continue;
      for (let i = 0; i < n; i++) row[i] = (x.data[base + i * stride] ?? 0) * (transposed ? 1 : signs?.[i] ?? 1);
      const y = hadamardTransform(row, { transposed });
      for (let i = 0; i < n; i++) result[base + i * stride] = (y[i] ?? 0) * (transposed ? signs?.[i] ?? 1 : 1);
    }
    return result;
  },
  vjp: (b, { inputs, attrs }, dy) => {
    const back = b.hadamard(dy, numberAttr(attrs, "axis"), inputs[1], !flagAttr(attrs, "transposed"));
    return inputs.length === 2 ? [back, undefined] : [back];
  },
  operations: (_, attrs, type) => {
    const n = Number(type.shape[numberAttr(attrs, "axis")]);
    return sizeOf(type.shape) * Math.ceil(Math.log2(n) + 1);
  },
};

/** Contractions of the op table. */
export const CONTRACTIONS = { dot } satisfies Record<string, OpRecord>;
/** Transforms of whole rows. */
export const TRANSFORMS = { hadamard } satisfies Record<string, OpRecord>;
