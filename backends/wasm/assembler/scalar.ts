/** Scalar instructions: i32, i64, f32, f64, whole-memory operations and atomics, under their WebAssembly names. */

import {
  constantOf,
  type Expr,
  f32Const,
  f64Const,
  i32Const,
  i64Const,
  instruction,
  type Memory,
  node,
} from "./expr.ts";
import { type Operand, type Stmt, toExpr, type ValueType } from "./expr.ts";
import { atomic, family, load, signature, store } from "./family.ts";

const I = signature(["i32"], "i32");
const II = signature(["i32", "i32"], "i32");
const L = signature(["i64"], "i64");
const LL = signature(["i64", "i64"], "i64");
const LL_I = signature(["i64", "i64"], "i32");
const F = signature(["f32"], "f32");
const FF = signature(["f32", "f32"], "f32");
const FF_I = signature(["f32", "f32"], "i32");
const D = signature(["f64"], "f64");
const DD = signature(["f64", "f64"], "f64");
const DD_I = signature(["f64", "f64"], "i32");

const plain = family("i32", {
  eqz: [0x45, I],
  eq: [0x46, II],
  ne: [0x47, II],
  lt_s: [0x48, II],
  lt_u: [0x49, II],
  gt_s: [0x4a, II],
  gt_u: [0x4b, II],
  le_s: [0x4c, II],
  le_u: [0x4d, II],
  ge_s: [0x4e, II],
  ge_u: [0x4f, II],
  clz: [0x67, I],
  ctz: [0x68, I],
  popcnt: [0x69, I],
  add: [0x6a, II],
  sub: [0x6b, II],
  mul: [0x6c, II],
  div_s: [0x6d, II],
  div_u: [0x6e, II],
  rem_s: [0x6f, II],
  rem_u: [0x70, II],
  and: [0x71, II],
  or: [0x72, II],
  xor: [0x73, II],
  shl: [0x74, II],
  shr_s: [0x75, II],
  shr_u: [0x76, II],
  rotl: [0x77, II],
  rotr: [0x78, II],
  wrap_i64: [0xa7, signature(["i64"], "i32")],
  reinterpret_f32: [0xbc, signature(["f32"], "i32")],
  extend8_s: [0xc0, I],
  extend16_s: [0xc1, I],
  trunc_sat_f32_s: [0xfc00, signature(["f32"], "i32")],
  trunc_sat_f32_u: [0xfc01, signature(["f32"], "i32")],
  trunc_sat_f64_s: [0xfc02, signature(["f64"], "i32")],
  trunc_sat_f64_u: [0xfc03, signature(["f64"], "i32")],
});

type Binary = typeof plain.add;

/** Adds to a binary i32 operation what index arithmetic is full of: two constants, and a constant that changes nothing. */
function folding(build: Binary, evaluate: (a: number, b: number) => number, right: number, left?: number): Binary {
  const folded = (a: Operand<"i32">, b: Operand<"i32">): Expr<"i32"> => {
    const x = toExpr(a, "i32", build.instruction.name, 0);
    const y = toExpr(b, "i32", build.instruction.name, 1);
    const p = constantOf(x);
    const q = constantOf(y);
    if (p !== undefined && q !== undefined) return i32Const(evaluate(p, q) | 0);
    if (q === right) return x;
    if (left !== undefined && p === left) return y;
    return build(x, y);
  };
  return Object.assign(folded, { instruction: build.instruction });
}

const sum = folding(plain.add, (a, b) => a + b, 0, 0);

/** Also gathers constants of nested sums: (x + a) + b = x + (a + b). */
const add: Binary = Object.assign((a: Operand<"i32">, b: Operand<"i32">): Expr<"i32"> => {
  if (typeof a === "object" && a.op === plain.add.instruction) {
    const [x, y] = a.args;
    const inner = y && constantOf(y);
    const outer = constantOf(toExpr(b, "i32", "i32.add", 1));
    if (x?.type === "i32" && inner !== undefined && outer !== undefined) {
      return sum(x as Expr<"i32">, (inner + outer) | 0);
    }
  }
  return sum(a, b);
}, { instruction: plain.add.instruction });

/** i32 instructions; `add`, `sub`, `mul` and `shl` fold constants (wrapping at 32 bits, as at run time). */
export const i32 = {
  ...plain,
  const: i32Const,
  add,
  sub: folding(plain.sub, (a, b) => a - b, 0),
  mul: folding(plain.mul, Math.imul, 1, 1),
  shl: folding(plain.shl, (a, b) => a << b, 0),
  load: load("i32.load", 0x28, "i32", 4),
  load8_s: load("i32.load8_s", 0x2c, "i32", 1),
  load8_u: load("i32.load8_u", 0x2d, "i32", 1),
  load16_s: load("i32.load16_s", 0x2e, "i32", 2),
  load16_u: load("i32.load16_u", 0x2f, "i32", 2),
  store: store("i32.store", 0x36, "i32", 4),
  store8: store("i32.store8", 0x3a, "i32", 1),
  store16: store("i32.store16", 0x3b, "i32", 2),
};

/** i64 instructions. */
export const i64 = {
  ...family("i64", {
    eqz: [0x50, signature(["i64"], "i32")],
    eq: [0x51, LL_I],
    ne: [0x52, LL_I],
    lt_s: [0x53, LL_I],
    lt_u: [0x54, LL_I],
    gt_s: [0x55, LL_I],
    gt_u: [0x56, LL_I],
    le_s: [0x57, LL_I],
    le_u: [0x58, LL_I],
    ge_s: [0x59, LL_I],
    ge_u: [0x5a, LL_I],
    clz: [0x79, L],
    ctz: [0x7a, L],
    popcnt: [0x7b, L],
    add: [0x7c, LL],
    sub: [0x7d, LL],
    mul: [0x7e, LL],
    div_s: [0x7f, LL],
    div_u: [0x80, LL],
    rem_s: [0x81, LL],
    rem_u: [0x82, LL],
    and: [0x83, LL],
    or: [0x84, LL],
    xor: [0x85, LL],
    shl: [0x86, LL],
    shr_s: [0x87, LL],
    shr_u: [0x88, LL],
    extend_i32_s: [0xac, signature(["i32"], "i64")],
    extend_i32_u: [0xad, signature(["i32"], "i64")],
    reinterpret_f64: [0xbd, signature(["f64"], "i64")],
  }),
  const: i64Const,
  load: load("i64.load", 0x29, "i64", 8),
  store: store("i64.store", 0x37, "i64", 8),
};

/** f32 instructions. `min` and `max` return NaN when either operand is NaN; `nearest` rounds halves to even. */
export const f32 = {
  ...family("f32", {
    eq: [0x5b, FF_I],
    ne: [0x5c, FF_I],
    lt: [0x5d, FF_I],
    gt: [0x5e, FF_I],
    le: [0x5f, FF_I],
    ge: [0x60, FF_I],
    abs: [0x8b, F],
    neg: [0x8c, F],
    ceil: [0x8d, F],
    floor: [0x8e, F],
    trunc: [0x8f, F],
    nearest: [0x90, F],
    sqrt: [0x91, F],
    add: [0x92, FF],
    sub: [0x93, FF],
    mul: [0x94, FF],
    div: [0x95, FF],
    min: [0x96, FF],
    max: [0x97, FF],
    copysign: [0x98, FF],
    convert_i32_s: [0xb2, signature(["i32"], "f32")],
    convert_i32_u: [0xb3, signature(["i32"], "f32")],
    demote_f64: [0xb6, signature(["f64"], "f32")],
    reinterpret_i32: [0xbe, signature(["i32"], "f32")],
  }),
  const: f32Const,
  load: load("f32.load", 0x2a, "f32", 4),
  store: store("f32.store", 0x38, "f32", 4),
};

/** f64 instructions, for sums that need more than f32. */
export const f64 = {
  ...family("f64", {
    eq: [0x61, DD_I],
    ne: [0x62, DD_I],
    lt: [0x63, DD_I],
    gt: [0x64, DD_I],
    le: [0x65, DD_I],
    ge: [0x66, DD_I],
    abs: [0x99, D],
    neg: [0x9a, D],
    ceil: [0x9b, D],
    floor: [0x9c, D],
    trunc: [0x9d, D],
    nearest: [0x9e, D],
    sqrt: [0x9f, D],
    add: [0xa0, DD],
    sub: [0xa1, DD],
    mul: [0xa2, DD],
    div: [0xa3, DD],
    min: [0xa4, DD],
    max: [0xa5, DD],
    convert_i32_s: [0xb7, signature(["i32"], "f64")],
    promote_f32: [0xbb, signature(["f32"], "f64")],
    reinterpret_i64: [0xbf, signature(["i64"], "f64")],
  }),
  const: f64Const,
  load: load("f64.load", 0x2b, "f64", 8),
  store: store("f64.store", 0x39, "f64", 8),
};

/** Atomic i32 instructions; addresses must be multiples of four, or they trap. */
export const atomics = {
  load: atomic("i32.atomic.load", 0xfe10, [], "i32", 4),
  store: atomic("i32.atomic.store", 0xfe17, ["i32"], "void", 4),
  /** Each returns the old value. */
  add: atomic("i32.atomic.rmw.add", 0xfe1e, ["i32"], "i32", 4),
  sub: atomic("i32.atomic.rmw.sub", 0xfe25, ["i32"], "i32", 4),
  and: atomic("i32.atomic.rmw.and", 0xfe2c, ["i32"], "i32", 4),
  or: atomic("i32.atomic.rmw.or", 0xfe33, ["i32"], "i32", 4),
  xor: atomic("i32.atomic.rmw.xor", 0xfe3a, ["i32"], "i32", 4),
  exchange: atomic("i32.atomic.rmw.xchg", 0xfe41, ["i32"], "i32", 4),
  /** `(address, expected, replacement) -> old`. */
  compareExchange: atomic("i32.atomic.rmw.cmpxchg", 0xfe48, ["i32", "i32"], "i32", 4),
  /** `(address, expected, nanoseconds) -> 0 woken, 1 not equal, 2 timed out`; nanoseconds < 0 waits for ever. Traps on a memory that is not shared. */
  wait32: atomic("memory.atomic.wait32", 0xfe01, ["i32", "i64"], "i32", 4),
  /** `(address, count) -> number of waiters woken`. */
  notify: atomic("memory.atomic.notify", 0xfe00, ["i32"], "i32", 4),
};

const COPY = instruction("memory.copy", 0xfc0a, ["i32", "i32", "i32"], "void");
const FILL = instruction("memory.fill", 0xfc0b, ["i32", "i32", "i32"], "void");

/** Bulk memory operations; a range that does not fit the memory traps before anything is written. */
export const memory = {
  /** Moves `bytes` bytes; the ranges may overlap. */
  copy(
    to: Operand<"i32">,
    from: Operand<"i32">,
    bytes: Operand<"i32">,
    memories: { readonly to?: Memory; readonly from?: Memory } = {},
  ): Stmt {
    return node(COPY, "void", [to, from, bytes], { kind: "bulk", memories: [memories.to, memories.from] });
  },
  /** Writes the low byte of `value` `bytes` times. */
  fill(at: Operand<"i32">, value: Operand<"i32">, bytes: Operand<"i32">, target?: Memory): Stmt {
    return node(FILL, "void", [at, value, bytes], { kind: "bulk", memories: [target] });
  },
};

const SELECT = {
  i32: instruction("select", 0x1b, ["i32", "i32", "i32"], "i32"),
  i64: instruction("select", 0x1b, ["i64", "i64", "i32"], "i64"),
  f32: instruction("select", 0x1b, ["f32", "f32", "i32"], "f32"),
  f64: instruction("select", 0x1b, ["f64", "f64", "i32"], "f64"),
  v128: instruction("select", 0x1b, ["v128", "v128", "i32"], "v128"),
} satisfies Record<ValueType, unknown>;

/** `whenTrue` where `condition` is not 0, else `whenFalse`; both are evaluated. Lane by lane: `v128.bitselect`. */
export function select<T extends ValueType>(condition: Operand<"i32">, whenTrue: Expr<T>, whenFalse: Expr<T>): Expr<T> {
  return node(SELECT[whenTrue.type], whenTrue.type, [whenTrue, whenFalse, condition]);
}
