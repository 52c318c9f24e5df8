/**
 * The algebra of indices. A value is addressed by the linear index of its row-major elements; inside a kernel that index is
 * an affine form of the loop variables. Movements map such forms to such forms, as long as no digit of the index has to be
 * split inside one loop: then the form does not exist, and the fuser stores the value instead.
 */
import type { Node } from "../../ir/node.ts";
import { listAttr, numbersAttr } from "../../ir/node.ts";
import { stridesOf } from "../../ir/ops/record.ts";
import { concreteShape } from "../../ir/types.ts";
import type { Access } from "../kernel.ts";

/** y[i] = x[offset + Σ i[a]·strides[a]] for i in dims: what transpose, broadcast and slice do to row-major values. */
export interface View {
  readonly dims: readonly number[];
  readonly strides: readonly number[];
  readonly offset: number;
}

/** The row-major index over loops of the given extents. */
export const linearAccess = (extents: readonly number[]): Access => ({ offset: 0, strides: stridesOf(extents) });

/** Σ factor·access. */
export function combine(loops: number, terms: readonly (readonly [Access, number])[], offset = 0): Access {
  const strides = new Array<number>(loops).fill(0);
  let start = offset;
  for (const [access, factor] of terms) {
    start += access.offset * factor;
    access.strides.forEach((stride, i) => strides[i] = (strides[i] ?? 0) + stride * factor);
  }
  return { offset: start, strides };
}

/** Text that equal accesses share. */
export const accessKey = ({ offset, strides }: Access): string => `${offset}:${strides.join()}`;

/** The view that a movement takes of its operand, or `undefined` for `reshape` (the linear index stays) and others. */
export function viewOf(node: Node): View | undefined {
  const x = node.inputs[0];
  if (!x) return undefined;
  const dims = concreteShape(node.type.shape), from = concreteShape(x.type.shape), strides = stridesOf(from);
  switch (node.op) {
    case "transpose":
      return mergeAxes({
        dims,
        strides: numbersAttr(node.attrs, "permutation").map((axis) => strides[axis] ?? 0),
        offset: 0,
      });
    case "broadcast": {
      const shift = dims.length - from.length;
      return mergeAxes({
        dims,
        strides: dims.map((dim, i) => from[i - shift] === dim ? strides[i - shift] ?? 0 : 0),
        offset: 0,
      });
    }
    case "slice": {
      const starts = numbersAttr(node.attrs, "starts");
      const steps = node.attrs.steps === undefined ? starts.map(() => 1) : listAttr(node.attrs, "steps").map(Number);
      return mergeAxes({
        dims,
        strides: strides.map((stride, i) => stride * (steps[i] ?? 1)),
        offset: starts.reduce((sum, start, i) => sum + start * (strides[i] ?? 0), 0),
      });
    }
    default:
      return undefined;
  }
}

/** Joins neighbouring axes that are walked as one, so that fewer digits have to be told apart. */
export function mergeAxes({ dims, strides, offset }: View): View {
  const merged: { dim: number; stride: number }[] = [];
  dims.forEach((dim, i) => {
    const stride = strides[i] ?? 0, last = merged.at(-1);
    if (dim === 1) return;
    if (last && last.stride === stride * dim) merged[merged.length - 1] = { dim: last.dim * dim, stride };
    else merged.push({ dim, stride });
  });
  return { dims: merged.map(({ dim }) => dim), strides: merged.map(({ stride }) => stride), offset };
}

/** The linear index of the operand under a view, given that of the result; `undefined` when it is not affine. */
export function throughView(view: View, index: Access, extents: readonly number[]): Access | undefined {
  const weights = stridesOf(view.dims), terms: [Access, number][] = [];
  for (const [axis, stride] of view.strides.entries()) {
    if (stride === 0) continue;
    const digit = digitOf(index, weights[axis] ?? 1, view.dims[axis] ?? 1, extents);
    if (!digit) return undefined;
    terms.push([digit, stride]);
  }
  return combine(extents.length, terms, view.offset);
}

/** floor(index / weight) mod dim as an affine form, or `undefined` when some loop crosses a border of this digit. */
export function digitOf(index: Access, weight: number, dim: number, extents: readonly number[]): Access | undefined {
  const period = weight * dim, start = modulo(index.offset, period);
  const digit = new Array<number>(extents.length).fill(0);
  const first = Math.floor(start / weight);
  let low = start - first * weight, high = low, least = first, most = first;
  for (const [loop, stride] of index.strides.entries()) {
    const reach = stride * ((extents[loop] ?? 1) - 1);
    if (reach === 0 || stride % period === 0) continue;
    if (stride % weight === 0) {
      digit[loop] = stride / weight;
      least += Math.min(0, reach / weight);
      most += Math.max(0, reach / weight);
    } else {
      low += Math.min(0, reach);
      high += Math.max(0, reach);
    }
  }
  const stays = low >= 0 && high < weight && least >= 0 && most < dim;
  return stays ? { offset: first, strides: digit } : undefined;
}

const modulo = (x: number, n: number): number => ((x % n) + n) % n;

/**
 * Loop extents that tell apart the digits of all the given shapes (each of the same number of elements): the borders of the
 * first shape always, those of the others as long as all borders divide each other.
 */
export function refineExtents(base: readonly number[], shapes: readonly (readonly number[])[]): number[] {
  const total = base.reduce((a, b) => a * b, 1);
  let borders = bordersOf(base);
  for (const shape of shapes) {
    for (const border of bordersOf(shape)) {
      if (borders.includes(border) || border > total) continue;
      const extended = [...borders, border].sort((a, b) => a - b);
      if (extended.every((value, i) => i === 0 || value % (extended[i - 1] ?? 1) === 0)) borders = extended;
    }
  }
  return borders.slice(1).map((border, i) => border / (borders[i] ?? 1)).reverse();
}

/** 1, then the products of trailing dimensions, without repeats. */
function bordersOf(shape: readonly number[]): number[] {
  const borders = [1];
  for (const dim of [...shape].reverse()) if (dim !== 1) borders.push((borders.at(-1) ?? 1) * dim);
  return borders;
}
