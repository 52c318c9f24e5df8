/** The elementwise operations on vectors of four lanes. */
import type { Expr } from "../kernel.ts";
import type { MapOp } from "../../ir/ops.ts";
import { f32x4, i32x4, v128 } from "./assembler.ts";
import type { KernelCode, Vector } from "./place.ts";

type MapExpr = Expr & { readonly kind: "map" };
type Lowering = (code: KernelCode, expr: MapExpr, args: readonly Vector[]) => Vector;

const operand = (args: readonly Vector[], i: number): Vector => {
  const found = args[i];
  if (!found) throw new Error(`Internal error: an elementwise operation lacks operand ${i}`);
  return found;
};

const unary = (apply: (x: Vector) => Vector): Lowering => (_, __, args) => apply(operand(args, 0));
/** An operation with one instruction for floats and one for integers. */
const numbers =
  (real: (a: Vector, b: Vector) => Vector, integer: (a: Vector, b: Vector) => Vector): Lowering =>
  (_, { args: of }, args) => (of[0]?.scalar === "f32" ? real : integer)(operand(args, 0), operand(args, 1));

const COMPARE = {
  eq: [f32x4.eq, i32x4.eq],
  lt: [f32x4.lt, i32x4.lt_s],
  le: [f32x4.le, i32x4.le_s],
  gt: [f32x4.gt, i32x4.gt_s],
  ge: [f32x4.ge, i32x4.ge_s],
} as const;

/** Whether dividing by a number is multiplying by its inverse, to the bit: powers of two, whose inverse is no subnormal number. */
const isPowerOfTwo = (value: number): boolean =>
  Number.isInteger(Math.log2(Math.abs(value))) && Math.abs(Math.log2(Math.abs(value))) <= 126;

/** By how many bits a product of integers with this factor shifts; undefined unless it is a power of two. */
export function shiftOf(factor: Expr): number | undefined {
  const by = factor.kind === "constant" ? Math.log2(factor.value) : NaN;
  return Number.isInteger(by) ? by : undefined;
}

/** Integers of at most this magnitude are exact in f32, so that clamping may come before the conversion. */
const EXACT = 2 ** 24;

/**
 * The operands that an operation is computed from. A cast to codes stays within their range by itself: where a value was clamped to that
 * very range before, it is that of the value.
 */
export function operandsOf({ op, args, range }: MapExpr): readonly Expr[] {
  const [clamped] = args;
  if (op !== "cast" || !range || clamped?.kind !== "map" || clamped.op !== "minimum") return args;
  const [raised, high] = clamped.args, [x, low] = raised?.kind === "map" && raised.op === "maximum" ? raised.args : [];
  if (!x || low?.kind !== "constant" || high?.kind !== "constant" || x.scalar !== "f32") return args;
  return low.value === range[0] && high.value === range[1] ? [x] : args;
}

const cast: Lowering = ({ relaxed, b }, { scalar, range, half, args: of }, args) => {
  const x = operand(args, 0), from = of[0]?.scalar ?? "f32";
  if (half) return nearestHalf(b.let("x", x));
  if (from === "bool") return v128.and(x, scalar === "f32" ? f32x4.const(1) : i32x4.const(1));
  if (scalar === "f32") return from === "f32" ? x : f32x4.convert_i32x4_s(x);
  const [low, high] = range ?? [-(2 ** 31), 2 ** 31 - 1];
  if (from === "f32" && Math.max(-low, high) <= EXACT) {
    const clamped = f32x4.pmin(f32x4.const(high), f32x4.pmax(f32x4.const(low), x)); // NaN becomes `low`
    return relaxed ? i32x4.relaxed_trunc_f32x4_s(clamped) : i32x4.trunc_sat_f32x4_s(clamped);
  }
  const integer = from === "f32" ? i32x4.trunc_sat_f32x4_s(x) : x;
  return range ? i32x4.min_s(i32x4.max_s(integer, i32x4.const(low)), i32x4.const(high)) : integer;
};

/** The nearest half as a float, ties to even: 13 bits of the fraction vanish, or what is below 2^-24. */
function nearestHalf(x: Vector): Vector {
  const magnitude = v128.and(x, i32x4.const(0x7fffffff)), odd = v128.and(i32x4.shr_u(x, 13), i32x4.const(1));
  const normal = v128.and(i32x4.add(i32x4.add(magnitude, odd), i32x4.const(0xfff)), i32x4.const(~0x1fff));
  // Subnormal halves are multiples of 2^-24, which adding ½ rounds to.
  const small = f32x4.sub(f32x4.add(magnitude, f32x4.const(0.5)), f32x4.const(0.5));
  const finite = v128.bitselect(small, normal, i32x4.lt_s(magnitude, i32x4.const(0x38800000)));
  const bounded = v128.bitselect(i32x4.const(0x7f800000), finite, i32x4.gt_s(magnitude, i32x4.const(0x477fefff)));
  const result = v128.bitselect(magnitude, bounded, i32x4.gt_s(magnitude, i32x4.const(0x7f800000))); // NaN
  return v128.or(result, v128.and(x, i32x4.const(-(2 ** 31))));
}

const LOWERINGS = {
  add: numbers(f32x4.add, i32x4.add),
  sub: numbers(f32x4.sub, i32x4.sub),
  mul: (_, { args: [, factor], scalar }, args) => {
    const by = scalar === "i32" && factor ? shiftOf(factor) : undefined;
    if (by !== undefined) return i32x4.shl(operand(args, 0), by);
    return (scalar === "f32" ? f32x4.mul : i32x4.mul)(operand(args, 0), operand(args, 1));
  },
  div: (_, { args: [, divisor] }, args) => {
    const by = divisor?.kind === "constant" && isPowerOfTwo(divisor.value) ? divisor.value : undefined;
    if (by !== undefined) return f32x4.mul(operand(args, 0), f32x4.const(1 / by));
    return f32x4.div(operand(args, 0), operand(args, 1));
  },
  exp: ({ b, math }, _, args) => math.f32x4.exp(b, operand(args, 0)),
  log: ({ b, math }, _, args) => math.f32x4.log(b, operand(args, 0)),
  sqrt: unary(f32x4.sqrt),
  erf: ({ b, math }, _, args) => math.f32x4.erf(b, operand(args, 0)),
  sigmoid: ({ b, math }, _, args) => math.f32x4.sigmoid(b, operand(args, 0)),
  abs: (_, { scalar }, args) => (scalar === "f32" ? f32x4.abs : i32x4.abs)(operand(args, 0)),
  round: unary(f32x4.nearest),
  floor: unary(f32x4.floor),
  minimum: numbers(f32x4.pmin, i32x4.min_s),
  maximum: numbers(f32x4.pmax, i32x4.max_s),
  compare: (_, { direction = "eq", args: of }, args) => {
    const [real, integer] = COMPARE[direction];
    return (of[0]?.scalar === "f32" ? real : integer)(operand(args, 0), operand(args, 1));
  },
  select: (_, __, args) => v128.bitselect(operand(args, 1), operand(args, 2), operand(args, 0)),
  cast,
  straightThrough: unary((x) => x),
} satisfies Record<MapOp, Lowering>;

/** Applies an elementwise operation. */
export function applyMap(code: KernelCode, expr: MapExpr, args: readonly Vector[]): Vector {
  return LOWERINGS[expr.op](code, expr, args);
}
