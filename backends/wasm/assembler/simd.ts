/** Vector instructions (fixed-width and relaxed SIMD) under their WebAssembly names. */

import { AssemblyError, type Expr, instruction, type LaneShape, node } from "./expr.ts";
import {
  checkedLane,
  extractLane,
  family,
  load,
  loadLane,
  replaceLane,
  signature,
  store,
  storeLane,
} from "./family.ts";

const V = signature(["v128"], "v128");
const VV = signature(["v128", "v128"], "v128");
const VVV = signature(["v128", "v128", "v128"], "v128");
const V_I = signature(["v128"], "i32");
const VI = signature(["v128", "i32"], "v128");
const I_V = signature(["i32"], "v128");

const CONST = instruction("v128.const", 0xfd0c, [], "v128");

/** A maker of `v128.const` from its lanes; fewer lanes than the shape has are repeated, so one value is a splat. */
function constant(shape: LaneShape, count: number, valid: (lane: number) => boolean) {
  return (...values: readonly number[]): Expr<"v128"> => {
    const ok = values.length > 0 && count % values.length === 0 && values.every(valid);
    if (!ok) {
      throw new AssemblyError(
        `Cannot build "v128.const ${shape}": expected values of one lane, or a divisor of ${count} of them, but found [${values}]`,
      );
    }
    const lanes = Array.from({ length: count }, (_, i) => values[i % values.length] ?? 0);
    return { type: "v128", op: CONST, args: [], imm: { kind: "vector", shape, lanes } };
  };
}
const integer = (bits: number) => (x: number) => Number.isInteger(x) && x >= -(2 ** (bits - 1)) && x < 2 ** bits;

const SHUFFLE = instruction("i8x16.shuffle", 0xfd0d, ["v128", "v128"], "v128");

/** Bytes of the pair (a, b), picked by constant indices: 0–15 from `a`, 16–31 from `b`. */
function shuffle(a: Expr<"v128">, b: Expr<"v128">, lanes: readonly number[]): Expr<"v128"> {
  if (lanes.length !== 16) {
    throw new AssemblyError(`Cannot build "i8x16.shuffle": expected 16 lanes but found ${lanes.length}`);
  }
  return node(SHUFFLE, "v128", [a, b], { kind: "shuffle", lanes: lanes.map((lane) => checkedLane(SHUFFLE, lane, 32)) });
}

/** Instructions on the 128 bits as a whole. */
export const v128 = {
  ...family("v128", {
    not: [0xfd4d, V],
    and: [0xfd4e, VV],
    /** a & ~b. */
    andnot: [0xfd4f, VV],
    or: [0xfd50, VV],
    xor: [0xfd51, VV],
    /** (a & mask) | (b & ~mask), as `bitselect(a, b, mask)`. */
    bitselect: [0xfd52, VVV],
    any_true: [0xfd53, V_I],
  }),
  load: load("v128.load", 0xfd00, "v128", 16),
  load8x8_s: load("v128.load8x8_s", 0xfd01, "v128", 8),
  load8x8_u: load("v128.load8x8_u", 0xfd02, "v128", 8),
  load16x4_s: load("v128.load16x4_s", 0xfd03, "v128", 8),
  load16x4_u: load("v128.load16x4_u", 0xfd04, "v128", 8),
  load32x2_s: load("v128.load32x2_s", 0xfd05, "v128", 8),
  load32x2_u: load("v128.load32x2_u", 0xfd06, "v128", 8),
  load8_splat: load("v128.load8_splat", 0xfd07, "v128", 1),
  load16_splat: load("v128.load16_splat", 0xfd08, "v128", 2),
  load32_splat: load("v128.load32_splat", 0xfd09, "v128", 4),
  load64_splat: load("v128.load64_splat", 0xfd0a, "v128", 8),
  load32_zero: load("v128.load32_zero", 0xfd5c, "v128", 4),
  load64_zero: load("v128.load64_zero", 0xfd5d, "v128", 8),
  load8_lane: loadLane("v128.load8_lane", 0xfd54, 1),
  load16_lane: loadLane("v128.load16_lane", 0xfd55, 2),
  load32_lane: loadLane("v128.load32_lane", 0xfd56, 4),
  load64_lane: loadLane("v128.load64_lane", 0xfd57, 8),
  store: store("v128.store", 0xfd0b, "v128", 16),
  store8_lane: storeLane("v128.store8_lane", 0xfd58, 1),
  store16_lane: storeLane("v128.store16_lane", 0xfd59, 2),
  store32_lane: storeLane("v128.store32_lane", 0xfd5a, 4),
  store64_lane: storeLane("v128.store64_lane", 0xfd5b, 8),
};

/** Sixteen 8-bit lanes. Shift counts are taken modulo 8. */
export const i8x16 = {
  ...family("i8x16", {
    /** Bytes of `a` picked by the bytes of `b`; an index above 15 gives 0. */
    swizzle: [0xfd0e, VV],
    splat: [0xfd0f, I_V],
    eq: [0xfd23, VV],
    ne: [0xfd24, VV],
    lt_s: [0xfd25, VV],
    lt_u: [0xfd26, VV],
    gt_s: [0xfd27, VV],
    gt_u: [0xfd28, VV],
    le_s: [0xfd29, VV],
    le_u: [0xfd2a, VV],
    ge_s: [0xfd2b, VV],
    ge_u: [0xfd2c, VV],
    abs: [0xfd60, V],
    neg: [0xfd61, V],
    popcnt: [0xfd62, V],
    all_true: [0xfd63, V_I],
    bitmask: [0xfd64, V_I],
    narrow_i16x8_s: [0xfd65, VV],
    narrow_i16x8_u: [0xfd66, VV],
    shl: [0xfd6b, VI],
    shr_s: [0xfd6c, VI],
    shr_u: [0xfd6d, VI],
    add: [0xfd6e, VV],
    add_sat_s: [0xfd6f, VV],
    add_sat_u: [0xfd70, VV],
    sub: [0xfd71, VV],
    sub_sat_s: [0xfd72, VV],
    sub_sat_u: [0xfd73, VV],
    min_s: [0xfd76, VV],
    min_u: [0xfd77, VV],
    max_s: [0xfd78, VV],
    max_u: [0xfd79, VV],
    avgr_u: [0xfd7b, VV],
    /** `swizzle` where an index above 15 gives 0 or the byte at its low four bits, as the machine likes. */
    relaxed_swizzle: [0xfd100, VV],
  }),
  const: constant("i8x16", 16, integer(8)),
  shuffle: Object.assign(shuffle, { instruction: SHUFFLE }),
  extract_lane_s: extractLane("i8x16.extract_lane_s", 0xfd15, "i32", 16),
  extract_lane_u: extractLane("i8x16.extract_lane_u", 0xfd16, "i32", 16),
  replace_lane: replaceLane("i8x16.replace_lane", 0xfd17, "i32", 16),
};

/** Eight 16-bit lanes. Shift counts are taken modulo 16. */
export const i16x8 = {
  ...family("i16x8", {
    splat: [0xfd10, I_V],
    eq: [0xfd2d, VV],
    ne: [0xfd2e, VV],
    lt_s: [0xfd2f, VV],
    lt_u: [0xfd30, VV],
    gt_s: [0xfd31, VV],
    gt_u: [0xfd32, VV],
    le_s: [0xfd33, VV],
    le_u: [0xfd34, VV],
    ge_s: [0xfd35, VV],
    ge_u: [0xfd36, VV],
    extadd_pairwise_i8x16_s: [0xfd7c, V],
    extadd_pairwise_i8x16_u: [0xfd7d, V],
    abs: [0xfd80, V],
    neg: [0xfd81, V],
    all_true: [0xfd83, V_I],
    bitmask: [0xfd84, V_I],
    narrow_i32x4_s: [0xfd85, VV],
    narrow_i32x4_u: [0xfd86, VV],
    extend_low_i8x16_s: [0xfd87, V],
    extend_high_i8x16_s: [0xfd88, V],
    extend_low_i8x16_u: [0xfd89, V],
    extend_high_i8x16_u: [0xfd8a, V],
    shl: [0xfd8b, VI],
    shr_s: [0xfd8c, VI],
    shr_u: [0xfd8d, VI],
    add: [0xfd8e, VV],
    add_sat_s: [0xfd8f, VV],
    add_sat_u: [0xfd90, VV],
    sub: [0xfd91, VV],
    sub_sat_s: [0xfd92, VV],
    sub_sat_u: [0xfd93, VV],
    mul: [0xfd95, VV],
    min_s: [0xfd96, VV],
    min_u: [0xfd97, VV],
    max_s: [0xfd98, VV],
    max_u: [0xfd99, VV],
    avgr_u: [0xfd9b, VV],
    extmul_low_i8x16_s: [0xfd9c, VV],
    extmul_high_i8x16_s: [0xfd9d, VV],
    extmul_low_i8x16_u: [0xfd9e, VV],
    extmul_high_i8x16_u: [0xfd9f, VV],
    /** Sums of pairs of products; see `i32x4.relaxed_dot_i8x16_i7x16_add_s`. */
    relaxed_dot_i8x16_i7x16_s: [0xfd112, VV],
  }),
  const: constant("i16x8", 8, integer(16)),
  extract_lane_s: extractLane("i16x8.extract_lane_s", 0xfd18, "i32", 8),
  extract_lane_u: extractLane("i16x8.extract_lane_u", 0xfd19, "i32", 8),
  replace_lane: replaceLane("i16x8.replace_lane", 0xfd1a, "i32", 8),
};

/** Four 32-bit integer lanes. Shift counts are taken modulo 32. */
export const i32x4 = {
  ...family("i32x4", {
    splat: [0xfd11, I_V],
    eq: [0xfd37, VV],
    ne: [0xfd38, VV],
    lt_s: [0xfd39, VV],
    lt_u: [0xfd3a, VV],
    gt_s: [0xfd3b, VV],
    gt_u: [0xfd3c, VV],
    le_s: [0xfd3d, VV],
    le_u: [0xfd3e, VV],
    ge_s: [0xfd3f, VV],
    ge_u: [0xfd40, VV],
    extadd_pairwise_i16x8_s: [0xfd7e, V],
    extadd_pairwise_i16x8_u: [0xfd7f, V],
    abs: [0xfda0, V],
    neg: [0xfda1, V],
    all_true: [0xfda3, V_I],
    bitmask: [0xfda4, V_I],
    extend_low_i16x8_s: [0xfda7, V],
    extend_high_i16x8_s: [0xfda8, V],
    extend_low_i16x8_u: [0xfda9, V],
    extend_high_i16x8_u: [0xfdaa, V],
    shl: [0xfdab, VI],
    shr_s: [0xfdac, VI],
    shr_u: [0xfdad, VI],
    add: [0xfdae, VV],
    sub: [0xfdb1, VV],
    mul: [0xfdb5, VV],
    min_s: [0xfdb6, VV],
    min_u: [0xfdb7, VV],
    max_s: [0xfdb8, VV],
    max_u: [0xfdb9, VV],
    dot_i16x8_s: [0xfdba, VV],
    extmul_low_i16x8_s: [0xfdbc, VV],
    extmul_high_i16x8_s: [0xfdbd, VV],
    extmul_low_i16x8_u: [0xfdbe, VV],
    extmul_high_i16x8_u: [0xfdbf, VV],
    trunc_sat_f32x4_s: [0xfdf8, V],
    trunc_sat_f32x4_u: [0xfdf9, V],
    /** Truncation that is exact inside the range and, outside, whatever the machine does. */
    relaxed_trunc_f32x4_s: [0xfd101, V],
    /** Lanes of `a` or `b` by mask lanes of all ones or all zeros: `relaxed_laneselect(a, b, mask)`. */
    relaxed_laneselect: [0xfd10b, VVV],
    /**
     * `(a, b, sum)`: sum + the products of four neighbouring bytes. Exact and equal on all machines when every byte of `b` is in
     * 0…127 (`a` is signed); the intermediate sums of pairs may saturate at 16 bits otherwise.
     */
    relaxed_dot_i8x16_i7x16_add_s: [0xfd113, VVV],
  }),
  const: constant("i32x4", 4, integer(32)),
  extract_lane: extractLane("i32x4.extract_lane", 0xfd1b, "i32", 4),
  replace_lane: replaceLane("i32x4.replace_lane", 0xfd1c, "i32", 4),
};

/**
 * Four f32 lanes. `min`/`max` propagate NaN; `pmin(a, b)` is b < a ? b : a and `pmax(a, b)` is a < b ? b : a, one machine
 * instruction each. Comparisons give lanes of all ones or all zeros.
 *
 * V8 computes `convert_i32x4_u` slowly (measured: a product with u8 codes fell to a quarter); use `convert_i32x4_s`, or add 2^23 in
 * the exponent.
 */
export const f32x4 = {
  ...family("f32x4", {
    splat: [0xfd13, signature(["f32"], "v128")],
    eq: [0xfd41, VV],
    ne: [0xfd42, VV],
    lt: [0xfd43, VV],
    gt: [0xfd44, VV],
    le: [0xfd45, VV],
    ge: [0xfd46, VV],
    ceil: [0xfd67, V],
    floor: [0xfd68, V],
    trunc: [0xfd69, V],
    nearest: [0xfd6a, V],
    abs: [0xfde0, V],
    neg: [0xfde1, V],
    sqrt: [0xfde3, V],
    add: [0xfde4, VV],
    sub: [0xfde5, VV],
    mul: [0xfde6, VV],
    div: [0xfde7, VV],
    min: [0xfde8, VV],
    max: [0xfde9, VV],
    pmin: [0xfdea, VV],
    pmax: [0xfdeb, VV],
    convert_i32x4_s: [0xfdfa, V],
    convert_i32x4_u: [0xfdfb, V],
    /** a · b + c, rounded once or twice, as the machine likes. */
    relaxed_madd: [0xfd105, VVV],
    /** -(a · b) + c, rounded once or twice, as the machine likes. */
    relaxed_nmadd: [0xfd106, VVV],
  }),
  const: constant("f32x4", 4, () => true),
  extract_lane: extractLane("f32x4.extract_lane", 0xfd1f, "f32", 4),
  replace_lane: replaceLane("f32x4.replace_lane", 0xfd20, "f32", 4),
};
