/** Elementwise operations. Operands have one shape; the builder's methods broadcast for the caller. */
import { erf as errorFunction, roundEven } from "../numerics.ts";
import { stringAttr } from "../node.ts";
import { DTYPES, isFloat, isInteger, rangeOf, tensorType } from "../types.ts";
import { elementwise, operand, type OpRecord, shapeError } from "./record.ts";

const arithmetic = (name: string): OpRecord["infer"] => (inputs) => {
  const first = operand(inputs, 0);
  if (inputs.some((t) => t.dtype !== first.dtype) || !(isFloat(first.dtype) || first.dtype === "i32")) {
    throw shapeError(name, "operands of one type, f32, f16 or i32,", inputs);
  }
  return elementwise(name, inputs);
};

const floating = (name: string): OpRecord["infer"] => (inputs) => {
  const { dtype } = operand(inputs, 0);
  if (!isFloat(dtype) || inputs.some((t) => t.dtype !== dtype)) {
    throw shapeError(name, "operands of one floating-point type", inputs);
  }
  return elementwise(name, inputs);
};

const unary = (f: (x: number) => number): NonNullable<OpRecord["evaluate"]> => (inputs) =>
  operand(inputs, 0).data.map(f);

const binary = (f: (x: number, y: number) => number): NonNullable<OpRecord["evaluate"]> => (inputs) => {
  const y = operand(inputs, 1).data;
  return operand(inputs, 0).data.map((x, i) => f(x, y[i] ?? 0));
};

/** Operations of maps that cost about as much as several additions. */
const FUNCTION_COST = 10;
const functionCost: NonNullable<OpRecord["operations"]> = (inputs) =>
  FUNCTION_COST * operand(inputs, 0).shape.reduce<number>((n, dim) => n * Number(dim), 1);

const add: OpRecord = {
  doc: "y = a + b",
  class: "map",
  arity: 2,
  attrs: {},
  infer: arithmetic("add"),
  evaluate: binary((a, b) => a + b),
  vjp: (_, __, dy) => [dy, dy],
};

const sub: OpRecord = {
  doc: "y = a - b",
  class: "map",
  arity: 2,
  attrs: {},
  infer: arithmetic("sub"),
  evaluate: binary((a, b) => a - b),
  vjp: (b, _, dy) => [dy, b.mul(dy, -1)],
};

const mul: OpRecord = {
  doc: "y = a · b",
  class: "map",
  arity: 2,
  attrs: {},
  infer: arithmetic("mul"),
  evaluate: binary((a, b) => a * b),
  vjp: (b, { inputs }, dy) => [b.mul(dy, operand(inputs, 1)), b.mul(dy, operand(inputs, 0))],
};

const div: OpRecord = {
  doc: "y = a / b",
  class: "map",
  arity: 2,
  attrs: {},
  infer: floating("div"),
  evaluate: binary((a, b) => a / b),
  vjp: (b, node, dy) => {
    const da = b.div(dy, operand(node.inputs, 1));
    return [da, b.mul(b.mul(da, node), -1)];
  },
};

const exp: OpRecord = {
  doc: "y = e^x",
  class: "map",
  arity: 1,
  attrs: {},
  infer: floating("exp"),
  evaluate: unary(Math.exp),
  vjp: (b, node, dy) => [b.mul(dy, node)],
  operations: functionCost,
};

const log: OpRecord = {
  doc: "y = ln x",
  class: "map",
  arity: 1,
  attrs: {},
  infer: floating("log"),
  evaluate: unary(Math.log),
  vjp: (b, { inputs }, dy) => [b.div(dy, operand(inputs, 0))],
  operations: functionCost,
};

const sqrt: OpRecord = {
  doc: "y = √x",
  class: "map",
  arity: 1,
  attrs: {},
  infer: floating("sqrt"),
  evaluate: unary(Math.sqrt),
  vjp: (b, node, dy) => [b.div(b.mul(dy, 0.5), node)],
};

const erf: OpRecord = {
  doc: "y = 2/√π · ∫₀ˣ e^(-t²) dt",
  class: "map",
  arity: 1,
  attrs: {},
  infer: floating("erf"),
  evaluate: unary(errorFunction),
  vjp: (b, { inputs }, dy) => {
    const x = operand(inputs, 0);
    return [b.mul(dy, b.mul(b.exp(b.mul(b.mul(x, x), -1)), 2 / Math.sqrt(Math.PI)))];
  },
  operations: functionCost,
};

const sigmoid: OpRecord = {
  doc: "y = 1 / (1 + e^(-x))",
  class: "map",
  arity: 1,
  attrs: {},
  infer: floating("sigmoid"),
  evaluate: unary((x) => 1 / (1 + Math.exp(-x))),
  vjp: (b, node, dy) => [b.mul(dy, b.mul(node, b.sub(b.constant(1, node.type), node)))],
  operations: functionCost,
};

const abs: OpRecord = {
  doc: "y = |x|; the gradient at 0 is 0",
  class: "map",
  arity: 1,
  attrs: {},
  infer: arithmetic("abs"),
  evaluate: unary(Math.abs),
  vjp: (b, { inputs }, dy) => {
    const x = operand(inputs, 0), zero = b.constant(0, x.type);
    const negative = b.select(b.compare(x, zero, "lt"), b.mul(dy, -1), zero);
    return [b.select(b.compare(x, zero, "gt"), dy, negative)];
  },
};

const round: OpRecord = {
  doc: "y = x rounded to the nearest integer, ties to even; its gradient is 0",
  class: "map",
  arity: 1,
  attrs: {},
  infer: floating("round"),
  evaluate: unary(roundEven),
  vjp: () => [undefined],
};

const floor: OpRecord = {
  doc: "y = the largest integer that is at most x; its gradient is 0",
  class: "map",
  arity: 1,
  attrs: {},
  infer: floating("floor"),
  evaluate: unary(Math.floor),
  vjp: () => [undefined],
};

const minimum: OpRecord = {
  doc: "y = the smaller of a and b; on equality the gradient goes to a",
  class: "map",
  arity: 2,
  attrs: {},
  infer: arithmetic("minimum"),
  evaluate: binary((a, b) => b < a ? b : a),
  vjp: (b, { inputs }, dy) => {
    const first = b.compare(operand(inputs, 0), operand(inputs, 1), "le"), zero = b.constant(0, dy.type);
    return [b.select(first, dy, zero), b.select(first, zero, dy)];
  },
};

const maximum: OpRecord = {
  doc: "y = the larger of a and b; on equality the gradient goes to a",
  class: "map",
  arity: 2,
  attrs: {},
  infer: arithmetic("maximum"),
  evaluate: binary((a, b) => b > a ? b : a),
  vjp: (b, { inputs }, dy) => {
    const first = b.compare(operand(inputs, 0), operand(inputs, 1), "ge"), zero = b.constant(0, dy.type);
    return [b.select(first, dy, zero), b.select(first, zero, dy)];
  },
};

/** The comparisons there are. */
export const DIRECTIONS = ["eq", "lt", "le", "gt", "ge"] as const;
/** How `compare` compares. */
export type Direction = (typeof DIRECTIONS)[number];
const COMPARE: Record<Direction, (a: number, b: number) => boolean> = {
  eq: (a, b) => a === b,
  lt: (a, b) => a < b,
  le: (a, b) => a <= b,
  gt: (a, b) => a > b,
  ge: (a, b) => a >= b,
};

/** The checked direction of a `compare`. */
export function directionOf(text: string): Direction {
  const found = DIRECTIONS.find((name) => name === text);
  if (!found) throw new TypeError(`Cannot build compare: expected one of ${DIRECTIONS.join(", ")} but found "${text}"`);
  return found;
}

const compare: OpRecord = {
  doc: "y = whether a stands in relation `direction` (eq, lt, le, gt, ge) to b",
  class: "map",
  arity: 2,
  attrs: { direction: "text" },
  infer: (inputs, attrs) => {
    directionOf(stringAttr(attrs, "direction"));
    arithmetic("compare")(inputs, attrs);
    return elementwise("compare", inputs, "bool");
  },
  evaluate: (inputs, attrs) => {
    const holds = COMPARE[directionOf(stringAttr(attrs, "direction"))], b = operand(inputs, 1).data;
    return operand(inputs, 0).data.map((a, i) => Number(holds(a, b[i] ?? 0)));
  },
  vjp: () => [undefined, undefined],
};

const select: OpRecord = {
  doc: "y = a where the condition holds, otherwise b",
  class: "map",
  arity: 3,
  attrs: {},
  infer: (inputs) => {
    const condition = operand(inputs, 0), values = inputs.slice(1);
    if (condition.dtype !== "bool") throw shapeError("select", "a condition of type bool", inputs);
    if (operand(values, 0).dtype !== operand(values, 1).dtype) {
      throw shapeError("select", "branches of one type", values);
    }
    elementwise("select", inputs);
    return elementwise("select", values);
  },
  evaluate: (inputs) => {
    const condition = operand(inputs, 0).data, b = operand(inputs, 2).data;
    return operand(inputs, 1).data.map((a, i) => condition[i] ? a : b[i] ?? 0);
  },
  vjp: (b, { inputs }, dy) => {
    const condition = operand(inputs, 0), zero = b.constant(0, dy.type);
    return [undefined, b.select(condition, dy, zero), b.select(condition, zero, dy)];
  },
};

const cast: OpRecord = {
  doc: "x as type `dtype`; to integers it drops the fraction and stays within the type's range",
  class: "map",
  arity: 1,
  attrs: { dtype: "text" },
  infer: (inputs, attrs) => {
    const dtype = DTYPES.find((name) => name === attrs.dtype);
    if (!dtype || dtype === "bool") throw shapeError("cast", `a numeric type instead of "${attrs.dtype}"`, inputs);
    return tensorType(dtype, operand(inputs, 0).shape);
  },
  evaluate: (inputs, _, type) => {
    if (!isInteger(type.dtype)) return operand(inputs, 0).data.slice();
    const [low, high] = rangeOf(type.dtype);
    return operand(inputs, 0).data.map((x) => Math.min(Math.max(Math.trunc(x), low), high) || 0); // neither -0 nor NaN
  },
  vjp: (b, { inputs, type }, dy) => {
    const from = operand(inputs, 0).type.dtype;
    return [isFloat(from) && isFloat(type.dtype) ? b.cast(dy, from) : undefined];
  },
};

const straightThrough: OpRecord = {
  doc: "y = value; the gradient goes to `through` alone (the one gradient that is not a derivative)",
  class: "map",
  arity: 2,
  attrs: {},
  infer: (inputs) => {
    if (operand(inputs, 0).dtype !== operand(inputs, 1).dtype) {
      throw shapeError("straightThrough", "operands of one type", inputs);
    }
    return elementwise("straightThrough", inputs);
  },
  evaluate: (inputs) => operand(inputs, 0).data.slice(),
  vjp: (_, __, dy) => [undefined, dy],
  operations: () => 0,
};

/** The maps of the op table. */
export const MAPS = {
  add,
  sub,
  mul,
  div,
  exp,
  log,
  sqrt,
  erf,
  sigmoid,
  abs,
  round,
  floor,
  minimum,
  maximum,
  compare,
  select,
  cast,
  straightThrough,
} satisfies Record<string, OpRecord>;
