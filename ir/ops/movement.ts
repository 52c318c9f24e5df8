/** Operations that only move values. The region fuser folds most of them into index expressions. */
import { concreteDim, type Dim, multiplyDims } from "../dim.ts";
import { listAttr, numberAttr, numbersAttr } from "../node.ts";
import { concreteShape, isInteger, sizeOf, tensorType } from "../types.ts";
import { dimsOf, operand, type OpRecord, readStrided, shapeError, stridesOf } from "./record.ts";

const at = <T>(list: readonly T[], index: number, fallback: T): T => list[index] ?? fallback;

const reshape: OpRecord = {
  doc: "the same values in row-major order under another shape",
  class: "movement",
  arity: 1,
  attrs: { shape: "dims" },
  infer: (inputs, attrs) => {
    const x = operand(inputs, 0), shape = dimsOf(listAttr(attrs, "shape"));
    if (multiplyDims([1, ...x.shape]) !== multiplyDims([1, ...shape])) {
      throw shapeError("reshape", `as many elements as [${shape}]`, inputs);
    }
    return tensorType(x.dtype, shape);
  },
  evaluate: (inputs) => operand(inputs, 0).data.slice(),
  vjp: (b, { inputs }, dy) => [b.reshape(dy, operand(inputs, 0).type.shape)],
  operations: () => 0,
};

const transpose: OpRecord = {
  doc: "axes in the order of `permutation`: axis i of the result is axis permutation[i] of x",
  class: "movement",
  arity: 1,
  attrs: { permutation: "numbers" },
  infer: (inputs, attrs) => {
    const x = operand(inputs, 0), permutation = numbersAttr(attrs, "permutation");
    const sorted = [...permutation].sort((a, b) => a - b);
    if (sorted.length !== x.shape.length || sorted.some((axis, i) => axis !== i)) {
      throw shapeError("transpose", `a permutation of its axes, not [${permutation}],`, inputs);
    }
    return tensorType(x.dtype, permutation.map((axis) => at<Dim>(x.shape, axis, 1)));
  },
  evaluate: (inputs, attrs, type) => {
    const x = operand(inputs, 0), strides = stridesOf(concreteShape(x.type.shape));
    return readStrided(
      x.data,
      concreteShape(type.shape),
      numbersAttr(attrs, "permutation").map((axis) => at(strides, axis, 0)),
      0,
    );
  },
  vjp: (b, { attrs }, dy) => {
    const permutation = numbersAttr(attrs, "permutation");
    return [b.transpose(dy, permutation.map((_, axis) => permutation.indexOf(axis)))];
  },
  operations: () => 0,
};

const broadcast: OpRecord = {
  doc: "x repeated to `shape`; axes are matched from the right, missing axes and axes of size 1 are repeated",
  class: "movement",
  arity: 1,
  attrs: { shape: "dims" },
  infer: (inputs, attrs) => {
    const x = operand(inputs, 0), shape = dimsOf(listAttr(attrs, "shape"));
    const offset = shape.length - x.shape.length;
    if (offset < 0 || x.shape.some((dim, i) => dim !== 1 && dim !== shape[i + offset])) {
      throw shapeError("broadcast", `a shape that repeats to [${shape}]`, inputs);
    }
    return tensorType(x.dtype, shape);
  },
  evaluate: (inputs, _, type) => {
    const x = operand(inputs, 0), from = concreteShape(x.type.shape), to = concreteShape(type.shape);
    const strides = stridesOf(from), offset = to.length - from.length;
    return readStrided(x.data, to, to.map((_, i) => from[i - offset] === to[i] ? at(strides, i - offset, 0) : 0), 0);
  },
  vjp: (b, { inputs, type }, dy) => {
    const { shape } = operand(inputs, 0).type, offset = type.shape.length - shape.length;
    const axes = type.shape.map((_, i) => i).filter((i) => type.shape[i] !== shape[i - offset]);
    return [b.reshape(axes.length > 0 ? b.sum(dy, axes) : dy, shape)];
  },
  operations: () => 0,
};

const slice: OpRecord = {
  doc: "y[i] = x[starts + i·steps] for i < sizes; a step is 1, or -1 to run backwards from `starts`",
  class: "movement",
  arity: 1,
  attrs: { starts: "numbers", sizes: "dims", "steps?": "numbers" },
  infer: (inputs, attrs) => {
    const x = operand(inputs, 0), starts = numbersAttr(attrs, "starts"), sizes = dimsOf(listAttr(attrs, "sizes"));
    const steps = attrs.steps === undefined ? starts.map(() => 1) : numbersAttr(attrs, "steps");
    const fits = starts.length === x.shape.length && sizes.length === starts.length && steps.length === starts.length &&
      x.shape.every((dim, i) => {
        const start = at(starts, i, 0), size = at<Dim>(sizes, i, 1), step = at(steps, i, 1);
        if (start === 0 && step === 1 && size === dim) return true;
        if (typeof dim === "string" || typeof size === "string" || (step !== 1 && step !== -1)) return false;
        const last = start + (size - 1) * step;
        return Math.min(start, last) >= 0 && Math.max(start, last) < dim;
      });
    if (!fits) throw shapeError("slice", `room for starts [${starts}], sizes [${sizes}], steps [${steps}]`, inputs);
    return tensorType(x.dtype, sizes);
  },
  evaluate: (inputs, attrs, type) => {
    const x = operand(inputs, 0),
      strides = stridesOf(concreteShape(x.type.shape)),
      starts = numbersAttr(attrs, "starts");
    const steps = attrs.steps === undefined ? starts.map(() => 1) : numbersAttr(attrs, "steps");
    const offset = starts.reduce((sum, start, i) => sum + start * at(strides, i, 0), 0);
    return readStrided(x.data, concreteShape(type.shape), strides.map((s, i) => s * at(steps, i, 1)), offset);
  },
  vjp: (b, { inputs, type, attrs }, dy) => {
    const { shape } = operand(inputs, 0).type, starts = numbersAttr(attrs, "starts");
    const steps = attrs.steps === undefined ? starts.map(() => 1) : numbersAttr(attrs, "steps");
    // A backward run is a forward run of the reversed gradient that begins at its other end.
    const reversed = steps.some((step) => step < 0)
      ? b.slice(dy, steps.map((step, i) => step < 0 ? Number(type.shape[i]) - 1 : 0), type.shape, steps)
      : dy;
    const before = starts.map((start, i) => at(steps, i, 1) < 0 ? start - Number(type.shape[i]) + 1 : start);
    const after = before.map((start, i) =>
      shape[i] === type.shape[i] ? 0 : Number(shape[i]) - start - Number(type.shape[i])
    );
    return [b.pad(reversed, before, after)];
  },
  operations: () => 0,
};

const concat: OpRecord = {
  doc: "operands one after the other along `axis`",
  class: "movement",
  arity: [1, 64],
  attrs: { axis: "number" },
  infer: (inputs, attrs) => {
    const first = operand(inputs, 0), axis = numberAttr(attrs, "axis");
    const alike = inputs.every((t) =>
      t.dtype === first.dtype && t.shape.length === first.shape.length &&
      t.shape.every((dim, i) => i === axis ? typeof dim === "number" : dim === first.shape[i])
    );
    if (!alike || first.shape[axis] === undefined) {
      throw shapeError("concat", `shapes equal but for axis ${axis}`, inputs);
    }
    const total = inputs.reduce((sum, t) => sum + Number(t.shape[axis]), 0);
    return tensorType(first.dtype, first.shape.map((dim, i) => i === axis ? total : dim));
  },
  evaluate: (inputs, attrs, type) => {
    const axis = numberAttr(attrs, "axis"), shape = concreteShape(type.shape);
    const inner = sizeOf(shape.slice(axis + 1)), outer = sizeOf(shape.slice(0, axis));
    const result = new Float64Array(sizeOf(shape));
    let to = 0;
    for (let row = 0; row < outer; row++) {
      for (const { type: t, data } of inputs) {
        const run = Number(t.shape[axis]) * inner;
        result.set(data.subarray(row * run, (row + 1) * run), to);
        to += run;
      }
    }
    return result;
  },
  vjp: (b, { inputs, attrs }, dy) => {
    const axis = numberAttr(attrs, "axis");
    let start = 0;
    return inputs.map(({ type: { shape } }) => {
      const part = b.slice(dy, shape.map((_, i) => i === axis ? start : 0), shape);
      start += Number(shape[axis]);
      return part;
    });
  },
  operations: () => 0,
};

const pad: OpRecord = {
  doc: "x with `before` and `after` elements of `value` (default 0) added at the ends of every axis",
  class: "movement",
  arity: 1,
  attrs: { before: "numbers", after: "numbers", "value?": "number" },
  infer: (inputs, attrs) => {
    const x = operand(inputs, 0), before = numbersAttr(attrs, "before"), after = numbersAttr(attrs, "after");
    if (
      before.length !== x.shape.length || after.length !== x.shape.length || [...before, ...after].some((n) => n < 0)
    ) {
      throw shapeError("pad", "one amount, at least 0, per axis and end", inputs);
    }
    return tensorType(
      x.dtype,
      x.shape.map((dim, i) => {
        const added = at(before, i, 0) + at(after, i, 0);
        if (added === 0) return dim;
        if (typeof dim === "string") throw shapeError("pad", "a concrete dimension where it pads", inputs);
        return dim + added;
      }),
    );
  },
  evaluate: (inputs, attrs, type) => {
    const x = operand(inputs, 0), before = numbersAttr(attrs, "before");
    const from = concreteShape(x.type.shape), strides = stridesOf(concreteShape(type.shape));
    const result = new Float64Array(sizeOf(type.shape)).fill(
      attrs.value === undefined ? 0 : numberAttr(attrs, "value"),
    );
    const inner = stridesOf(from);
    for (let i = 0; i < x.data.length; i++) {
      const to = from.reduce(
        (sum, dim, axis) =>
          sum + (Math.floor(i / at(inner, axis, 1)) % dim + at(before, axis, 0)) * at(strides, axis, 0),
        0,
      );
      result[to] = x.data[i] ?? 0;
    }
    return result;
  },
  vjp: (b, { inputs, attrs }, dy) => [b.slice(dy, numbersAttr(attrs, "before"), operand(inputs, 0).type.shape)],
  operations: () => 0,
};

const gather: OpRecord = {
  doc: "y[i…, :] = table[indices[i…], :]; indices are clamped into the table",
  class: "movement",
  arity: 2,
  attrs: {},
  infer: (inputs) => {
    const table = operand(inputs, 0), indices = operand(inputs, 1);
    if (!isInteger(indices.dtype) || table.shape.length < 1) {
      throw shapeError("gather", "a table and integer indices", inputs);
    }
    return tensorType(table.dtype, [...indices.shape, ...table.shape.slice(1)]);
  },
  evaluate: ([table, indices], _, type) => {
    const result = new Float64Array(sizeOf(type.shape));
    if (!table || !indices) return result;
    const rows = Number(table.type.shape[0]), width = sizeOf(table.type.shape.slice(1));
    indices.data.forEach((index, i) => {
      const row = Math.min(Math.max(index, 0), rows - 1);
      result.set(table.data.subarray(row * width, (row + 1) * width), i * width);
    });
    return result;
  },
  vjp: (b, { inputs }, dy) => {
    // One-hot contraction instead of a scatter: no order of additions to worry about.
    const table = operand(inputs, 0), indices = operand(inputs, 1);
    const rows = at<Dim>(table.type.shape, 0, 1), shape = [...indices.type.shape, rows];
    const row = b.minimum(b.maximum(b.cast(indices, "i32"), 0), concreteDim(rows) - 1);
    const wide = b.broadcast(b.reshape(row, [...indices.type.shape, 1]), shape);
    const oneHot = b.cast(b.compare(wide, b.iota("i32", shape, shape.length - 1), "eq"), "f32");
    const axes = indices.type.shape.map((_, i) => i);
    return [b.cast(b.dot(oneHot, dy, { lhsContract: axes, rhsContract: axes }), table.type.dtype), undefined];
  },
  operations: () => 0,
};

/** The movements of the op table. */
export const MOVEMENTS = { reshape, transpose, broadcast, slice, concat, pad, gather } satisfies Record<
  string,
  OpRecord
>;
