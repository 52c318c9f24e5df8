/** Reductions. Reduced axes stay, with size 1, so that results broadcast against their operand. */
import type { Builder } from "../builder.ts";
import { type Attrs, type Node, numberAttr, numbersAttr } from "../node.ts";
import { concreteShape, isFloat, sizeOf, type TensorType, tensorType } from "../types.ts";
import { operand, type OpRecord, shapeError, stridesOf } from "./record.ts";

const reduced = (op: string): OpRecord["infer"] => (inputs, attrs) => {
  const x = operand(inputs, 0), axes = numbersAttr(attrs, "axes");
  if (
    !(isFloat(x.dtype) || x.dtype === "i32") || axes.length === 0 || axes.some((axis) => x.shape[axis] === undefined)
  ) {
    throw shapeError(op, `f32, f16 or i32 with axes [${axes}]`, inputs);
  }
  return tensorType(x.dtype, x.shape.map((dim, i) => axes.includes(i) ? 1 : dim));
};

const fold =
  (start: number, f: (a: number, b: number) => number): NonNullable<OpRecord["evaluate"]> => (inputs, attrs, type) => {
    const x = operand(inputs, 0), shape = concreteShape(x.type.shape), axes = numbersAttr(attrs, "axes");
    const from = stridesOf(shape), to = stridesOf(concreteShape(type.shape));
    const result = new Float64Array(sizeOf(type.shape)).fill(start);
    for (let i = 0; i < x.data.length; i++) {
      let at = 0;
      for (let axis = 0; axis < shape.length; axis++) {
        if (!axes.includes(axis)) at += Math.floor(i / (from[axis] ?? 1)) % (shape[axis] ?? 1) * (to[axis] ?? 0);
      }
      result[at] = f(result[at] ?? 0, x.data[i] ?? 0);
    }
    return result;
  };

const perOperand = (inputs: readonly TensorType[], _: Attrs): number => sizeOf(operand(inputs, 0).shape);

/** Each element that attains the extremum receives an equal share. */
function extremumVjp(b: Builder, node: Node, dy: Node): readonly Node[] {
  const x = operand(node.inputs, 0);
  const ties = b.cast(b.compare(x, b.broadcast(node, x.type.shape), "eq"), x.type.dtype);
  const share = b.div(dy, b.sum(ties, numbersAttr(node.attrs, "axes")));
  return [b.mul(ties, b.broadcast(share, x.type.shape))];
}

const sum: OpRecord = {
  doc: "y = Σ x over `axes`, which keep size 1",
  class: "reduce",
  arity: 1,
  attrs: { axes: "numbers" },
  infer: reduced("sum"),
  evaluate: fold(0, (a, b) => a + b),
  vjp: (b, { inputs }, dy) => [b.broadcast(dy, operand(inputs, 0).type.shape)],
  operations: perOperand,
};

const max: OpRecord = {
  doc: "y = the largest x over `axes`, which keep size 1; ties share the gradient equally",
  class: "reduce",
  arity: 1,
  attrs: { axes: "numbers" },
  infer: reduced("max"),
  evaluate: fold(-Infinity, Math.max),
  vjp: extremumVjp,
  operations: perOperand,
};

const min: OpRecord = {
  doc: "y = the smallest x over `axes`, which keep size 1; ties share the gradient equally",
  class: "reduce",
  arity: 1,
  attrs: { axes: "numbers" },
  infer: reduced("min"),
  evaluate: fold(Infinity, Math.min),
  vjp: extremumVjp,
  operations: perOperand,
};

const topK: OpRecord = {
  doc: "indices of the k largest x on the last axis, largest first; of equal ones the lower index",
  class: "row",
  arity: 1,
  attrs: { k: "number" },
  infer: (inputs, attrs) => {
    const x = operand(inputs, 0), k = numberAttr(attrs, "k"), n = x.shape.at(-1);
    if (typeof n !== "number" || !Number.isInteger(k) || k < 1 || k > n) {
      throw shapeError("topK", `at least ${k} values on a last axis`, inputs);
    }
    return tensorType("i32", [...x.shape.slice(0, -1), k]);
  },
  evaluate: (inputs, attrs, type) => {
    const x = operand(inputs, 0), k = numberAttr(attrs, "k"), n = Number(x.type.shape.at(-1));
    const result = new Float64Array(sizeOf(type.shape));
    for (let row = 0; row * n < x.data.length; row++) {
      const values = x.data.subarray(row * n, (row + 1) * n);
      const order = Array.from(values.keys()).sort((i, j) => (values[j] ?? 0) - (values[i] ?? 0) || i - j);
      result.set(order.slice(0, k), row * k);
    }
    return result;
  },
  vjp: () => [undefined],
};

/** The reductions of the op table. */
export const REDUCTIONS = { sum, max, min } satisfies Record<string, OpRecord>;
/** Whole-row operations that are not plain reductions. */
export const RANKINGS = { topK } satisfies Record<string, OpRecord>;
