/** Values that come from outside, and constants. */
import { type Attrs, numberAttr, numbersAttr, stringAttr } from "../node.ts";
import { concreteShape, parseType, sizeOf, type TensorType } from "../types.ts";
import { type OpRecord, stridesOf } from "./record.ts";

const typed = (attrs: Attrs): TensorType => parseType(stringAttr(attrs, "type"));

const param: OpRecord = {
  doc: "value of the parameter `name`, known from binding time `time` on (checkpoint, calibration or configuration)",
  class: "leaf",
  arity: 0,
  attrs: { name: "text", type: "text", time: "text" },
  infer: (_, attrs) => typed(attrs),
  operations: () => 0,
};

const input: OpRecord = {
  doc: "value given anew at every run",
  class: "leaf",
  arity: 0,
  attrs: { name: "text", type: "text" },
  infer: (_, attrs) => typed(attrs),
  operations: () => 0,
};

const constant: OpRecord = {
  doc: "one number for every element, or a short list of them in row-major order",
  class: "leaf",
  arity: 0,
  attrs: { type: "text", values: "numbers" },
  infer: (_, attrs) => {
    const type = typed(attrs), count = numbersAttr(attrs, "values").length;
    if (count !== 1 && (count > 64 || count !== sizeOf(type.shape))) {
      throw new TypeError(`Cannot build constant: expected 1 value or at most 64, one per element, but found ${count}`);
    }
    return type;
  },
  evaluate: (_, attrs, type) => {
    const values = numbersAttr(attrs, "values");
    return Float64Array.from({ length: sizeOf(type.shape) }, (_, i) => values[values.length === 1 ? 0 : i] ?? 0);
  },
  operations: () => 0,
};

const iota: OpRecord = {
  doc: "y[…, i, …] = i along `axis`",
  class: "leaf",
  arity: 0,
  attrs: { type: "text", axis: "number" },
  infer: (_, attrs) => {
    const type = typed(attrs), axis = numberAttr(attrs, "axis");
    if (type.shape[axis] === undefined) {
      throw new TypeError(`Cannot build iota: no axis ${axis} in ${stringAttr(attrs, "type")}`);
    }
    return type;
  },
  evaluate: (_, attrs, type) => {
    const shape = concreteShape(type.shape), axis = numberAttr(attrs, "axis");
    const stride = stridesOf(shape)[axis] ?? 1, dim = shape[axis] ?? 1;
    return Float64Array.from({ length: sizeOf(shape) }, (_, i) => Math.floor(i / stride) % dim);
  },
  operations: () => 0,
};

/** The leaves of the op table. */
export const LEAVES = { param, input, constant, iota } satisfies Record<string, OpRecord>;
