/** Simplifications of elementwise operations. Each rule stands under its equation and holds exactly in floating point. */
import { halfBits, halfValue } from "../../../ir/numerics.ts";
import type { Node } from "../../../ir/node.ts";
import { isMap, recordOf } from "../../../ir/ops.ts";
import type { Values } from "../../../ir/ops/record.ts";
import type { Rule } from "../../../ir/rewrite.ts";
import { type DType, isNarrow, rangeOf, sizeOf, tensorType } from "../../../ir/types.ts";
import { integerRange, type Range } from "./integers.ts";
import { splatOf } from "./values.ts";

/** x + 0 = 0 + x = x - 0 = x (but for the sign of zero) */
const addZero: Rule = ({ op, inputs: [p, q] }) => {
  if ((op !== "add" && op !== "sub") || !p || !q) return undefined;
  if (splatOf(q) === 0) return p;
  return op === "add" && splatOf(p) === 0 ? q : undefined;
};

/** x · 1 = 1 · x = x / 1 = x */
const timesOne: Rule = ({ op, inputs: [p, q] }) => {
  if ((op !== "mul" && op !== "div") || !p || !q) return undefined;
  if (splatOf(q) === 1) return p;
  return op === "mul" && splatOf(p) === 1 ? q : undefined;
};

/** x · (-1) · (-1) = x; a + b · (-1) = a - b */
const negatives: Rule = ({ op, inputs: [p, q] }, b) => {
  const negated = (node: Node | undefined) =>
    node?.op === "mul" && node.inputs[1] && splatOf(node.inputs[1]) === -1 ? node.inputs[0] : undefined;
  const [first, second] = [negated(p), negated(q)];
  if (op === "mul" && first && q && splatOf(q) === -1) return first;
  if (op !== "add" || !p || !q) return undefined;
  return second ? b.sub(p, second) : first && b.sub(q, first);
};

/** select(true, x, y) = x; select(false, x, y) = y; select(c, x, x) = x */
const selectKnown: Rule = ({ op, inputs: [condition, x, y] }) => {
  if (op !== "select" || !condition) return undefined;
  const known = splatOf(condition);
  if (known === undefined) return x === y ? x : undefined;
  return known === 0 ? y : x;
};

/** minimum(x, x) = maximum(x, x) = straightThrough(x, x) = x */
const sameTwice: Rule = ({ op, inputs: [p, q] }) =>
  (op === "minimum" || op === "maximum" || op === "straightThrough") && p === q ? p : undefined;

/** cast(x, own type) = x */
const castToSame: Rule = ({ op, type, inputs: [x] }) => op === "cast" && x?.type.dtype === type.dtype ? x : undefined;

/** cast(cast(x, wider), type of x) = x; unpack(pack(c)) = c where c is provably an integer of the packed type's range */
const castBack: Rule = ({ op, type, inputs: [inner] }) => {
  const x = inner?.op === "cast" ? inner.inputs[0] : undefined;
  if (op !== "cast" || !inner || x?.type.dtype !== type.dtype) return undefined;
  const packed = inner.type.dtype;
  if (holds(packed, x.type.dtype)) return x;
  const range = isNarrow(packed) ? integerRange(x) : undefined;
  return range && contains(rangeOf(packed), range) ? x : undefined;
};

const contains = (outer: Range, inner: Range): boolean => outer[0] <= inner[0] && outer[1] >= inner[1];

/** Whether every value of type `inner` has an exact representation in `outer`. */
function holds(outer: DType, inner: DType): boolean {
  if (inner === "f16") return outer === "f32";
  if (!isNarrow(inner)) return false;
  return outer === "f32" || outer === "f16" || outer === "i32" ||
    (isNarrow(outer) && contains(rangeOf(outer), rangeOf(inner)));
}

/** An operation on repeated numbers is a repeated number */
const foldSplats: Rule = (node, b) => {
  const values = node.inputs.map(splatOf);
  if (!isMap(node.op) || values.some((value) => value === undefined)) return undefined;
  const scalars = node.inputs.map(({ type }, i): Values => ({
    type: tensorType(type.dtype, []),
    data: Float64Array.of(values[i] ?? 0),
  }));
  const type = tensorType(node.type.dtype, []);
  const [value] = recordOf(node.op).evaluate?.(scalars, node.attrs, type) ?? [];
  return value === undefined || !Number.isFinite(value) ? undefined : b.constant(rounded(value, type.dtype), node.type);
};

/** Any constant of at most so many values may be written out. */
const LARGEST_LIST = 64;

/** An operation on short lists of constants is such a list */
const foldLists: Rule = (node, b) => {
  const small = (shape: Node["type"]["shape"]) =>
    shape.every((dim) => typeof dim === "number") && sizeOf(shape) <= LARGEST_LIST;
  const { evaluate } = recordOf(node.op);
  const fits = node.inputs.length > 0 && small(node.type.shape) && node.op !== "hold" && node.op !== "site" &&
    node.inputs.every((input) => input.op === "constant" && small(input.type.shape));
  if (!fits || !evaluate) return undefined;
  const operands = node.inputs.map(({ op, attrs, type }): Values => ({
    type,
    data: recordOf(op).evaluate?.([], attrs, type) ?? new Float64Array(),
  }));
  const values = Array.from(evaluate(operands, node.attrs, node.type), (value) => rounded(value, node.type.dtype));
  return values.every(Number.isFinite) ? b.constant(values, node.type) : undefined;
};

function rounded(value: number, dtype: DType): number {
  if (dtype === "f16") return halfValue(halfBits(value));
  return dtype === "f32" ? Math.fround(value) : value;
}

/** All of the above. */
export const MAP_RULES: readonly Rule[] = [
  foldSplats,
  foldLists,
  addZero,
  timesOne,
  negatives,
  selectKnown,
  sameTwice,
  castToSame,
  castBack,
];
