/** Recognises what lets a product of codes be computed on bytes: a right operand linear in codes, a left one whose integers fit bytes. */
import type { Access, DotKernel, Expr } from "../kernel.ts";
import { isNarrow, rangeOf } from "../../ir/types.ts";
import { fitSum } from "./byte_sums.ts";
import { type Run, runOf, runStep } from "./codes_packing.ts";
import { COLUMN, type Contraction } from "./contraction.ts";
import type { Layout } from "./layout.ts";
import { splitAccess, staysInside } from "./loads.ts";
import { type Bound, createPlace, type KernelCode } from "./place.ts";

/** A right operand (codes - zero) · scale, whose codes lie side by side along the last contracted axis. */
export interface CodedOperand {
  readonly buffer: number;
  readonly access: Access;
  readonly layout: Layout;
  /** Bits of a code. */
  readonly bits: number;
  /** Over batch, column and all contracted axes but the last. Integers have neither. */
  readonly scale?: Expr | undefined;
  readonly zero?: Expr | undefined;
  /** Codes along the last axis. */
  readonly length: number;
  /** The units of the codes along the last axis; where undefined, they start or end inside of one. */
  readonly run?: Run | undefined;
}

/** Codes along the last axis below which bytes do not pay: there is one scale, one sum across lanes for so many. */
const SHORTEST = 16;

/** The right operand of a contraction as codes, or undefined where it is something else or not aligned to sixteen codes. */
export function codedOperand(
  { lhs, rhs, axes, extents, scalar }: Contraction,
  { groups }: DotKernel,
  code: KernelCode,
): CodedOperand | undefined {
  const last = axes.at(-1) ?? 0, length = extents[last] ?? 1, linear = linearInCodes(rhs, last);
  if (!linear || length < SHORTEST) return undefined;
  // A group's term is not additive: the group must be one axis. Integers are codes as they are, and activations that fit bytes.
  if (groups && (axes.length > 1 || scalar !== "i32")) return undefined;
  if (scalar === "i32" && (rhs.kind !== "load" || !fitsByte(lhs, code.buffers))) return undefined;
  const { buffer, access } = linear.codes, place = createPlace(code, extents), bound = place.buffer(buffer);
  const { layout } = bound, { strides } = access;
  if (!layout.dtype.startsWith("u") || !isNarrow(layout.dtype) || !staysInside(place, bound, access)) return undefined;
  if (strides[last] !== 1 || (strides[COLUMN] ?? 0) === 0) return undefined;
  const bits = layout.storage === "byte" ? 8 : layout.bits;
  // Digits of f32 are added up in 32 bits.
  if (scalar === "f32" && !fitSum(length, 2 ** bits - 1)) return undefined;
  const common = { buffer, access, layout, length, bits, scale: linear.scale, zero: linear.zero };
  if (layout.storage === "byte") return common;
  const split = splitAccess(access, layout.columns, extents);
  if (!split || split.row.strides[last] !== 0) return undefined;
  const starts = [split.column.offset, ...split.column.strides.filter((_, v) => v !== last)];
  if (starts.some((start) => start % 16 !== 0)) return undefined;
  const whole = starts.every((start) => start % runStep(layout) === 0);
  return { ...common, run: whole ? runOf(layout, split.column.offset, length) : undefined };
}

interface Linear {
  readonly codes: Expr & { readonly kind: "load" };
  readonly zero?: Expr;
  readonly scale?: Expr;
}

/** Reads codes, codes - zero, codes · scale or (codes - zero) · scale, with a zero and a scale that do not depend on `variable`. */
function linearInCodes(expr: Expr, variable: number): Linear | undefined {
  if (expr.kind === "load") return { codes: expr };
  if (expr.kind !== "map") return undefined;
  const [left, right] = expr.args;
  if (expr.op === "cast" && left?.kind === "load" && expr.scalar === "f32" && !expr.half) return { codes: left };
  if (!left || !right) return undefined;
  if (expr.op === "sub" && isConstantAlong(right, variable)) {
    const inner = linearInCodes(left, variable);
    return inner && !inner.scale && !inner.zero ? { ...inner, zero: right } : undefined;
  }
  if (expr.op !== "mul") return undefined;
  const [value, scale] = isConstantAlong(right, variable) ? [left, right] : [right, left];
  const inner = isConstantAlong(scale, variable) ? linearInCodes(value, variable) : undefined;
  return inner && !inner.scale ? { ...inner, scale } : undefined;
}

function isConstantAlong(expr: Expr, variable: number): boolean {
  switch (expr.kind) {
    case "constant":
      return true;
    case "load":
    case "index":
      return (expr.access.strides[variable] ?? 0) === 0;
    case "gather":
      return (expr.access.strides[variable] ?? 0) === 0 && isConstantAlong(expr.index, variable);
    case "map":
      return expr.args.every((arg) => isConstantAlong(arg, variable));
    case "value":
      return false;
    default:
      return expr satisfies never;
  }
}

/** Whether an integer expression is always in -128 … 127. */
function fitsByte(expr: Expr, buffers: readonly Bound[]): boolean {
  const inside = ([low, high]: readonly [number, number]) => low >= -128 && high <= 127;
  if (expr.kind === "constant") return inside([expr.value, expr.value]);
  if (expr.kind === "load") {
    const dtype = buffers[expr.buffer]?.layout.dtype;
    return dtype !== undefined && isNarrow(dtype) && inside(rangeOf(dtype));
  }
  if (expr.kind !== "map") return false;
  if (expr.op === "cast") return expr.range !== undefined && inside(expr.range);
  return expr.op === "select" && expr.args.slice(1).every((arg) => fitsByte(arg, buffers));
}
