/**
 * exp, log, erf and sigmoid on four f32 lanes, written into the function under construction.
 *
 * They are inlined rather than called: a call costs little, but a called function builds its vector constants anew, while constants of
 * a loop are moved to the function's entry (`assembler/hoist.ts`). Measured on 4096 floats: exp 1.5 ns per value called, 0.6 inlined.
 *
 * The coefficients are minimax fits (Lawson-weighted least squares in double precision, relative error) of the functions named
 * at each table, rounded to f32. Errors are measured in `math_test.ts` against double precision.
 */

import { type Expr, f32x4, type FunctionBuilder, i32x4, v128 } from "./assembler.ts";

type Vector = Expr<"v128">;
/** a · b + c. */
type MultiplyAdd = (a: Vector, b: Vector, c: Vector) => Vector;

/** The functions of this file. */
export type MathName = "exp" | "log" | "erf" | "sigmoid";

/** Elementary functions; each appends statements to `b` and returns an expression to be used once (or kept with `b.let`). */
export interface WasmMath {
  readonly f32x4: Readonly<Record<MathName, (b: FunctionBuilder, x: Vector) => Vector>>;
  /** The same on one value: computed as a vector of equal lanes, so that a row's tail has the very bits its body would have. */
  readonly f32: Readonly<Record<MathName, (b: FunctionBuilder, x: Expr<"f32">) => Expr<"f32">>>;
  /** a · b + c: one instruction with relaxed SIMD, two without. */
  readonly madd: MultiplyAdd;
}

/**
 * The elementary functions.
 *
 * | function | error against the exact value | special values |
 * | --- | --- | --- |
 * | `exp` | relative 1.5e-7 | 0 below -87.33 (no subnormal results), +∞ above 88.72 |
 * | `log` | relative 1.5e-7 | -∞ at ±0, NaN below; subnormal arguments are accurate too |
 * | `erf` | absolute and relative 2e-7 | ±1 within 1e-7 beyond 3.95; never beyond ±1 |
 * | `sigmoid` | absolute 1e-7 | 0 and 1 at the ends |
 *
 * NaN gives NaN. With `relaxed` (multiply-add in one instruction) the last bit may differ between machines.
 */
export function createMath({ relaxed }: { readonly relaxed: boolean }): WasmMath {
  const madd: MultiplyAdd = relaxed ? f32x4.relaxed_madd : (a, b, c) => f32x4.add(f32x4.mul(a, b), c);
  const vector = (name: MathName) => (b: FunctionBuilder, x: Vector) => BODIES[name](b, x, madd);
  const scalar = (name: MathName) => (b: FunctionBuilder, x: Expr<"f32">) =>
    f32x4.extract_lane(BODIES[name](b, f32x4.splat(x), madd), 0);
  return {
    madd,
    f32x4: { exp: vector("exp"), log: vector("log"), erf: vector("erf"), sigmoid: vector("sigmoid") },
    f32: { exp: scalar("exp"), log: scalar("log"), erf: scalar("erf"), sigmoid: scalar("sigmoid") },
  };
}

const BODIES: Readonly<Record<MathName, (b: FunctionBuilder, x: Vector, madd: MultiplyAdd) => Vector>> = {
  exp: expBody,
  log: logBody,
  erf: erfBody,
  sigmoid: (b, x, madd) => f32x4.div(f32x4.const(1), f32x4.add(f32x4.const(1), expBody(b, f32x4.neg(x), madd))),
};

/** Coefficients, highest power first, evaluated by Horner's rule. */
function polynomial(coefficients: readonly number[], x: Vector, madd: MultiplyAdd): Vector {
  const [first = 0, ...rest] = coefficients;
  return rest.reduce<Vector>((sum, c) => madd(sum, x, f32x4.const(c)), f32x4.const(first));
}

/** ln 2 in two parts; the first has 15 zero bits at its end, so that a small integer times it is exact. */
const LN2_HIGH = 0.693145751953125;
const LN2_LOW = 1.42860682030941723e-6;
const LOG2_E = 1.4426950408889634;
/** 1.5 · 2^23: adding it rounds to an integer, which then stands in the low mantissa bits. */
const ROUNDER = 12582912;
/** exp(x) overflows above, and is subnormal below. */
const EXP_HIGHEST = 88.72283172607422;
const EXP_LOWEST = -87.33654022216797;
/** (e^r - 1 - r) / r² for |r| ≤ ln 2 / 2; truncation error 3e-9 of e^r. */
const EXP = [0.001381446490995586, 0.008368780836462975, 0.04166839271783829, 0.1666651964187622, 0.4999999403953552];

/** e^x = 2^n · e^r with n = round(x / ln 2) and |r| ≤ ln 2 / 2. */
function expBody(b: FunctionBuilder, argument: Vector, madd: MultiplyAdd): Vector {
  const x = b.let("x", argument);
  const rounded = b.let("rounded", madd(x, f32x4.const(LOG2_E), f32x4.const(ROUNDER)));
  const n = b.let("n", f32x4.sub(rounded, f32x4.const(ROUNDER)));
  const r = b.let("r", madd(n, f32x4.const(-LN2_LOW), madd(n, f32x4.const(-LN2_HIGH), x)));
  const p = madd(polynomial(EXP, r, madd), f32x4.mul(r, r), f32x4.add(r, f32x4.const(1)));
  // Times 2^n by adding n to the exponent: `rounded` holds n in its low bits, and the shift drops the others.
  const scaled = i32x4.add(p, i32x4.shl(rounded, 23));
  const finite = v128.bitselect(f32x4.const(Infinity), scaled, f32x4.gt(x, f32x4.const(EXP_HIGHEST)));
  return v128.andnot(finite, f32x4.lt(x, f32x4.const(EXP_LOWEST)));
}

const SMALLEST_NORMAL = 1.1754943508222875e-38;
/** Bits of √½ as f32. */
const SQRT_HALF_BITS = 0x3f3504f3;
/** (ln(1 + f) - f + f²/2) / f³ for √½ ≤ 1 + f ≤ √2; truncation error 6e-9 of the logarithm. */
const LOG = [
  -0.07634429633617401,
  0.12761549651622772,
  -0.131601944565773,
  0.14201761782169342,
  -0.16623356938362122,
  0.20001226663589478,
  -0.250008225440979,
  0.3333333134651184,
];

/** ln x = e · ln 2 + ln(1 + f) with x = 2^e · (1 + f) and √½ ≤ 1 + f < √2. */
function logBody(b: FunctionBuilder, argument: Vector, madd: MultiplyAdd): Vector {
  const x = b.let("x", argument);
  // Subnormal arguments are made normal: times 2^23, and 23 less in e.
  const tiny = b.let("tiny", f32x4.lt(x, f32x4.const(SMALLEST_NORMAL)));
  const normal = b.let("normal", v128.bitselect(f32x4.mul(x, f32x4.const(2 ** 23)), x, tiny));
  const exponent = b.let("exponent", i32x4.shr_s(i32x4.sub(normal, i32x4.const(SQRT_HALF_BITS)), 23));
  const f = b.let("f", f32x4.sub(i32x4.sub(normal, i32x4.shl(exponent, 23)), f32x4.const(1)));
  const e = b.let("e", f32x4.convert_i32x4_s(i32x4.sub(exponent, v128.and(tiny, i32x4.const(23)))));
  const square = b.let("square", f32x4.mul(f, f));
  const cubic = f32x4.mul(f32x4.mul(polynomial(LOG, f, madd), f), square);
  const low = madd(e, f32x4.const(LN2_LOW), madd(square, f32x4.const(-0.5), cubic));
  const y = madd(e, f32x4.const(LN2_HIGH), f32x4.add(f, low));
  const positive = v128.bitselect(y, f32x4.const(NaN), f32x4.ge(x, f32x4.const(0)));
  const nonzero = v128.bitselect(f32x4.const(-Infinity), positive, f32x4.eq(x, f32x4.const(0)));
  return v128.bitselect(x, nonzero, f32x4.eq(x, f32x4.const(Infinity)));
}

/** erf is 1 within half a unit of the last place beyond this. */
const ERF_HIGHEST = 3.95;
/**
 * erf(x) / x = 0.2 + above(x²) / below(x²) for |x| ≤ 3.95; error 2e-8. Splitting off most of the value at the far end leaves the
 * quotient's rounding errors a small share there (from 3.3e-7 without to 1.8e-7).
 */
const ERF_OFFSET = 0.2;
const ERF_ABOVE = [
  -1.0575638953014277e-5,
  9.647561819292605e-5,
  0.0015215999446809292,
  0.05719444528222084,
  0.1735721379518509,
  1.7720916271209717,
];
const ERF_BELOW = [
  7.221349369501695e-5,
  0.00223468872718513,
  0.02873721532523632,
  0.2186717540025711,
  0.9602987766265869,
  1.9088016748428345,
];

function erfBody(b: FunctionBuilder, argument: Vector, madd: MultiplyAdd): Vector {
  const x = b.let("inside", clamp(argument, ERF_HIGHEST));
  const square = b.let("square", f32x4.mul(x, x));
  const quotient = f32x4.div(polynomial(ERF_ABOVE, square, madd), polynomial(ERF_BELOW, square, madd));
  return clamp(f32x4.mul(x, f32x4.add(quotient, f32x4.const(ERF_OFFSET))), 1);
}

/** x between -limit and limit; NaN stays NaN, because the pseudo-minimum keeps its first operand unless the second is less. */
function clamp(x: Vector, limit: number): Vector {
  return f32x4.pmax(f32x4.pmin(x, f32x4.const(limit)), f32x4.const(-limit));
}
