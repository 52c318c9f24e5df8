/** How random graphs draw one node of each operation, and what is known of its values; see `random_graphs.ts`. */
import type { Attrs, Node } from "../../ir/node.ts";
import { roundEven } from "../../ir/numerics.ts";
import type { OpName } from "../../ir/ops.ts";
import { DIRECTIONS } from "../../ir/ops/maps.ts";
import { BINDING_TIMES, SITE_ROLES } from "../../ir/ops/state.ts";
import { type DType, isFloat, isInteger, isNarrow, rangeOf, sizeOf, tensorType } from "../../ir/types.ts";
import { ANY, type Maker, type Value, type Wanted } from "./random_graphs.ts";

/** Draws a node, or gives up (`undefined`). */
type Make = (m: Maker, op: OpName) => Value | undefined;

const dimsOf = ({ node }: Value): readonly number[] => node.type.shape.map(Number);
const dtypeOf = ({ node }: Value): DType => node.type.dtype;
const largest = (...values: readonly Value[]): number => Math.max(...values.flatMap(({ lo, hi }) => [-lo, hi]));
const numeric = (m: Maker): readonly DType[] => [...m.floats, ...m.floats, "i32"];
const pick = <T>(m: Maker, list: readonly T[]): T => list[m.rng.int(list.length)] as T;
const chance = (m: Maker, one: number): boolean => m.rng.int(one) === 0;

function shuffled<T>(m: Maker, list: readonly T[]): T[] {
  const result = [...list];
  for (let i = result.length - 1; i > 0; i--) {
    const j = m.rng.int(i + 1), kept = result[i] as T;
    result[i] = result[j] as T;
    result[j] = kept;
  }
  return result;
}

/** The least and largest of f over the corners of two intervals; right for every f that is monotone in each operand. */
function corners(x: Value, y: Value, f: (a: number, b: number) => number): Pick<Value, "lo" | "hi"> {
  const values = [f(x.lo, y.lo), f(x.lo, y.hi), f(x.hi, y.lo), f(x.hi, y.hi)];
  return { lo: Math.min(...values), hi: Math.max(...values) };
}

/** A continuous function of one operand that is monotone; its results are inexact. */
const monotone = (f: (x: number) => number, wanted: Wanted = {}): Make => (m, op) => {
  const x = m.value({ dtypes: m.floats, ...wanted });
  return { node: m.b.make(op, [x.node]), lo: f(x.lo) - 1e-3, hi: f(x.hi) + 1e-3, bits: Infinity };
};

const rounding = (f: (x: number) => number): Make => (m, op) => {
  const x = m.value({ dtypes: m.floats, exact: true });
  return { node: m.b.make(op, [x.node]), lo: f(x.lo), hi: f(x.hi), bits: 0 };
};

/** Two operands of one type and shape; sometimes the second is a number. */
function pair(m: Maker, wanted: Wanted = {}): readonly [Value, Value] {
  const x = m.value({ dtypes: numeric(m), ...wanted });
  const floating = isFloat(dtypeOf(x)), number = floating ? (1 + m.rng.int(15)) / 8 : 1 + m.rng.int(5);
  if (chance(m, 4)) {
    return [x, { node: m.b.constant(number, x.node.type), lo: number, hi: number, bits: floating ? 3 : 0 }];
  }
  const like = { ...wanted, dtypes: [dtypeOf(x)], shape: dimsOf(x) }, y = m.value(like);
  return [x, y.node === x.node ? m.fresh(like) : y];
}

const arithmetic = (f: (a: number, b: number) => number, bits: (a: number, b: number) => number): Make => (m, op) => {
  const [x, y] = pair(m);
  return { node: m.b.make(op, [x.node, y.node]), ...corners(x, y, f), bits: bits(x.bits, y.bits) };
};

/** A node that only moves the elements of x. */
const moved = (x: Value, node: Node): Value => ({ ...x, node });

const extremum: Make = (m, op) => {
  const x = m.value({ dtypes: numeric(m), accept: (shape) => shape.length > 0 });
  return moved(x, m.b.make(op, [x.node], { axes: someAxes(m, x) }));
};

function someAxes(m: Maker, x: Value): readonly number[] {
  const axes = dimsOf(x).map((_, i) => i), some = axes.filter(() => chance(m, 2));
  return some.length > 0 ? some : [pick(m, axes)];
}

const leaf: Make = (m) => m.fresh();

function reshape(m: Maker): Value {
  const x = m.value();
  const dims: number[] = [];
  for (let rest = sizeOf(x.node.type.shape); dims.length < 4;) {
    const divisors = Array.from({ length: rest }, (_, i) => i + 1).filter((d) => rest % d === 0);
    const dim = dims.length === 3 ? rest : pick(m, divisors);
    dims.push(dim);
    rest /= dim;
    if (rest === 1 && chance(m, 2)) break;
  }
  return moved(x, m.b.make("reshape", [x.node], { shape: shuffled(m, dims) }));
}

function broadcast(m: Maker): Value {
  const x = m.value(), lead = dimsOf(x).length < 4 && chance(m, 2) ? [1 + m.rng.int(3)] : [];
  const shape = [...lead, ...dimsOf(x).map((dim) => dim === 1 ? 1 + m.rng.int(4) : dim)];
  return moved(x, m.b.make("broadcast", [x.node], { shape }));
}

function slice(m: Maker): Value {
  const x = m.value(), starts: number[] = [], sizes: number[] = [], steps: number[] = [];
  for (const dim of dimsOf(x)) {
    const size = 1 + m.rng.int(dim), first = m.rng.int(dim - size + 1), back = chance(m, 3);
    starts.push(back ? first + size - 1 : first);
    sizes.push(size);
    steps.push(back ? -1 : 1);
  }
  return moved(x, m.b.make("slice", [x.node], { starts, sizes, ...(steps.includes(-1) ? { steps } : {}) }));
}

function concat(m: Maker): Value {
  const first = m.value({ accept: (shape) => shape.length > 0 }), axis = m.rng.int(dimsOf(first).length);
  const others = Array.from({ length: m.rng.int(3) }, () => {
    const shape = dimsOf(first).map((dim, i) => i === axis ? 1 + m.rng.int(3) : dim);
    return m.value({ dtypes: [dtypeOf(first)], shape });
  });
  const parts = [first, ...others];
  return {
    node: m.b.make("concat", parts.map(({ node }) => node), { axis }),
    lo: Math.min(...parts.map(({ lo }) => lo)),
    hi: Math.max(...parts.map(({ hi }) => hi)),
    bits: Math.max(...parts.map(({ bits }) => bits)),
  };
}

function pad(m: Maker): Value {
  const x = m.value(), amounts = () => dimsOf(x).map(() => m.rng.int(3)), value = m.rng.int(2);
  return {
    node: m.b.make("pad", [x.node], { before: amounts(), after: amounts(), ...(value === 0 ? {} : { value }) }),
    lo: Math.min(x.lo, value),
    hi: Math.max(x.hi, value),
    bits: x.bits,
  };
}

function gather(m: Maker): Value {
  const table = m.value({ accept: (shape) => shape.length > 0 });
  const indices = m.value({ dtypes: ANY.filter(isInteger), accept: (shape) => shape.length < 3 });
  return moved(table, m.b.gather(table.node, indices.node));
}

function cast(m: Maker): Value {
  const dtype = pick(m, ANY), x = m.value({ dtypes: [...ANY, "bool"], exact: true });
  const node = m.b.make("cast", [x.node], { dtype });
  if (isFloat(dtype)) return { node, lo: x.lo, hi: x.hi, bits: x.bits };
  const [low, high] = isNarrow(dtype) ? rangeOf(dtype) : [x.lo, x.hi];
  const clamp = (value: number) => Math.min(Math.max(Math.trunc(value), low), high);
  return { node, lo: clamp(x.lo), hi: clamp(x.hi), bits: 0 };
}

function compare(m: Maker, wanted: Wanted = {}): Value {
  const [x, y] = pair(m, { ...wanted, exact: true });
  return { node: m.b.make("compare", [x.node, y.node], { direction: pick(m, DIRECTIONS) }), lo: 0, hi: 1, bits: 0 };
}

function select(m: Maker): Value {
  const [x, y] = pair(m), shape = dimsOf(x);
  const condition = m.find({ dtypes: ["bool"], shape }) ?? compare(m, { shape });
  return {
    node: m.b.make("select", [condition.node, x.node, y.node]),
    lo: Math.min(x.lo, y.lo),
    hi: Math.max(x.hi, y.hi),
    bits: Math.max(x.bits, y.bits),
  };
}

function dot(m: Maker): Value {
  const integer = chance(m, 3), dtypes = integer ? ANY.filter(isInteger) : m.floats;
  const x = m.value({ dtypes }), roles = dimsOf(x).map(() => pick(m, ["batch", "free", "contract", "contract"]));
  const own = (role: string) => shuffled(m, roles.flatMap((found, axis) => found === role ? [axis] : []));
  const lhsBatch = own("batch"), lhsContract = own("contract");
  // The second operand: the paired axes and up to two of its own, in any order.
  const axes = shuffled(m, [
    ...lhsBatch.map((axis) => ({ axis, dim: dimsOf(x)[axis] ?? 1 })),
    ...lhsContract.map((axis) => ({ axis, dim: dimsOf(x)[axis] ?? 1 })),
    ...Array.from({ length: m.rng.int(3) }, () => ({ axis: -1, dim: 1 + m.rng.int(4) })),
  ]);
  const y = m.value({ dtypes, shape: axes.map(({ dim }) => dim) });
  const partner = (axis: number) => axes.findIndex((other) => other.axis === axis);
  const terms = sizeOf(lhsContract.map((axis) => dimsOf(x)[axis] ?? 1)), product = corners(x, y, (a, b) => a * b);
  return {
    node: m.b.dot(x.node, y.node, {
      lhsBatch,
      rhsBatch: lhsBatch.map(partner),
      lhsContract,
      rhsContract: lhsContract.map(partner),
    }),
    lo: terms * Math.min(product.lo, 0),
    hi: terms * Math.max(product.hi, 0),
    bits: x.bits + y.bits,
  };
}

function hadamard(m: Maker): Value {
  const known = (dim: number) => [2, 4, 8, 12, 20].includes(dim),
    accept = (shape: readonly number[]) => shape.some(known);
  const wide = chance(m, 2) ? { shape: shuffled(m, [pick(m, [8, 12, 20]), 1 + m.rng.int(3)]) } : { accept };
  const x = m.value({ dtypes: ["f32"], ...wide }), shape = dimsOf(x);
  const axis = pick(m, shape.flatMap((dim, i) => known(dim) ? [i] : [])), n = shape[axis] ?? 1;
  const signs = chance(m, 2) ? m.given("f32", [n], () => m.rng.sign()).node : undefined,
    bound = Math.sqrt(n) * largest(x);
  return { node: m.b.hadamard(x.node, axis, signs, chance(m, 2)), lo: -bound, hi: bound, bits: Infinity };
}

function attentionOperands(m: Maker) {
  const int = (n: number) => 1 + m.rng.int(n),
    value = (...shape: readonly number[]) => m.value({ dtypes: ["f32"], shape });
  const [B, T, S, G, d, e] = [int(2), int(3), int(4), int(2), int(4), int(3)], H = G * int(2);
  const q = value(B, T, H, d), k = value(B, S, G, d), v = value(B, S, G, e);
  const causal = chance(m, 2), placed = causal && (T !== S || chance(m, 2)), biased = chance(m, 2);
  const heads = chance(m, 2) ? H : 1,
    bias = biased ? biasOf(m, chance(m, 2) ? [heads, T, S] : [B, heads, T, S], [q, k, v]) : undefined;
  const positions = placed ? m.given("i32", [B, T], () => m.rng.int(S + 1)) : undefined;
  // The narrowest window of a query behind all keys still has one in it.
  const window = causal && chance(m, 2) ? (placed ? 2 : 1) + m.rng.int(S) : undefined;
  const scale = 1 / Math.sqrt(d), score = scale * d * largest(q) * largest(k) + (bias ? largest(bias) : 0);
  const attrs: Attrs = {
    scale,
    ...(causal ? { causal } : {}),
    ...(window === undefined ? {} : { window }),
    ...(bias ? { bias: true } : {}),
    ...(placed ? { positions: true } : {}),
  };
  const optional = [bias, positions].flatMap((x) => x ? [x.node] : []);
  return { q, k, v, attrs, optional, score, shape: [B, T, H, e], repeats: T * H / G, scale, e };
}

/** No operand at the same time: a bias is a constant to gradients. */
function biasOf(m: Maker, shape: readonly number[], operands: readonly Value[]): Value {
  const wanted: Wanted = { dtypes: ["f32"], shape }, found = m.value(wanted);
  return operands.some(({ node }) => node === found.node) ? m.fresh(wanted) : found;
}

function attention(m: Maker): Value | undefined {
  const { q, k, v, attrs, optional, score } = attentionOperands(m), of = pick(m, ["output", "output", "logSumExp"]);
  if (score > 30) return undefined;
  const node = m.b.make("attention", [q.node, k.node, v.node, ...optional], { ...attrs, of });
  return of === "output" ? { ...v, node, bits: Infinity } : { node, lo: -score, hi: score + 2, bits: Infinity };
}

function attentionGrad(m: Maker): Value | undefined {
  const { q, k, v, attrs, optional, score, shape, repeats, scale, e } = attentionOperands(m);
  if (score > 30) return undefined;
  const forward = (of: string) => m.b.make("attention", [q.node, k.node, v.node, ...optional], { ...attrs, of });
  const dy = m.value({ dtypes: ["f32"], shape }), of = pick(m, ["q", "k", "v"]);
  const operands = [q.node, k.node, v.node, forward("output"), forward("logSumExp"), dy.node, ...optional];
  const ds = 2 * e * largest(dy) * largest(v) * scale;
  const bound = of === "v" ? repeats * largest(dy) : of === "q" ? ds * largest(k) : repeats * ds * largest(q);
  return { node: m.b.make("attentionGrad", operands, { ...attrs, of }), lo: -bound, hi: bound, bits: Infinity };
}

/** Every row goes to a place of its own, or to none: backends write rows in any order. */
function update(m: Maker): Value {
  const rows = m.value({ accept: (shape) => shape.length >= 2 }), [B = 1, T = 1, ...rest] = dimsOf(rows);
  const S = T + m.rng.int(3),
    dtype = dtypeOf(rows),
    places = Array.from({ length: S + 2 }, (_, i) => i - 1);
  const order = Array.from({ length: B }, () => shuffled(m, places).slice(0, T)).flat();
  const positions = m.given("i32", [B, T], (i) => order[i] ?? 0);
  const shape = [B, S, ...rest], old = m.given(dtype, shape, (i) => isFloat(dtype) ? (i % 16 - 8) / 8 : i % 4);
  m.forget(old);
  return {
    node: m.b.update(old.node, rows.node, positions.node),
    lo: Math.min(rows.lo, old.lo),
    hi: Math.max(rows.hi, old.hi),
    bits: Math.max(rows.bits, old.bits),
  };
}

function constant(m: Maker): Value {
  const dtype = pick(m, ANY), shape = m.shape(), most = isNarrow(dtype) ? rangeOf(dtype)[1] : 5;
  const values = Array.from(
    { length: chance(m, 2) ? 1 : sizeOf(shape) },
    () => m.rng.int(most + 1) / (isFloat(dtype) ? 8 : 1),
  );
  const node = m.b.constant(values, tensorType(dtype, shape));
  return { node, lo: Math.min(...values), hi: Math.max(...values), bits: isFloat(dtype) ? 3 : 0 };
}

function iota(m: Maker): Value {
  const shape = m.shape(1 + m.rng.int(3)), axis = m.rng.int(shape.length);
  return { node: m.b.iota(pick(m, ["f32", "i32"]), shape, axis), lo: 0, hi: (shape[axis] ?? 1) - 1, bits: 0 };
}

function sum(m: Maker): Value {
  const x = m.value({ dtypes: numeric(m), accept: (shape) => shape.length > 0 }), axes = someAxes(m, x);
  const count = sizeOf(axes.map((axis) => dimsOf(x)[axis] ?? 1));
  return { node: m.b.sum(x.node, axes), lo: count * Math.min(x.lo, 0), hi: count * Math.max(x.hi, 0), bits: x.bits };
}

function topK(m: Maker): Value {
  const x = m.value({ dtypes: numeric(m), exact: true, accept: (shape) => shape.length > 0 }),
    n = dimsOf(x).at(-1) ?? 1;
  return { node: m.b.topK(x.node, 1 + m.rng.int(n)), lo: 0, hi: n - 1, bits: 0 };
}

function transpose(m: Maker): Value {
  const x = m.value({ accept: (shape) => shape.length > 1 });
  return moved(x, m.b.make("transpose", [x.node], { permutation: shuffled(m, dimsOf(x).map((_, i) => i)) }));
}

function abs(m: Maker): Value {
  const x = m.value({ dtypes: numeric(m) });
  return { node: m.b.abs(x.node), lo: Math.max(x.lo, -x.hi, 0), hi: largest(x), bits: x.bits };
}

function div(m: Maker): Value {
  const x = m.value({ dtypes: m.floats });
  const y = m.value({ dtypes: [dtypeOf(x)], shape: dimsOf(x), lo: 0.25 });
  return { node: m.b.div(x.node, y.node), ...corners(x, y, (a, b) => a / b), bits: Infinity };
}

function straightThrough(m: Maker): Value {
  const [value, through] = pair(m);
  return moved(value, m.b.straightThrough(value.node, through.node));
}

const marked = (attrs: (m: Maker) => Attrs): Make => (m, op) => {
  const x = m.value();
  return moved(x, m.b.make(op, [x.node], { name: m.name(), ...attrs(m) }));
};

/** How a node of every operation is drawn. */
export const MAKERS = {
  param: leaf,
  input: leaf,
  constant,
  iota,
  reshape,
  transpose,
  broadcast,
  slice,
  concat,
  pad,
  gather,
  add: arithmetic((a, b) => a + b, Math.max),
  sub: arithmetic((a, b) => a - b, Math.max),
  mul: arithmetic((a, b) => a * b, (a, b) => a + b),
  div,
  exp: monotone(Math.exp, { lo: -20, hi: 4 }),
  log: monotone(Math.log, { lo: 0.25 }),
  sqrt: monotone(Math.sqrt, { lo: 0.25 }),
  erf: monotone((x) => x > 0 ? 1 : -1),
  sigmoid: monotone((x) => 1 / (1 + Math.exp(-x))),
  abs,
  round: rounding(roundEven),
  floor: rounding(Math.floor),
  minimum: arithmetic(Math.min, Math.max),
  maximum: arithmetic(Math.max, Math.max),
  compare: (m) => compare(m),
  select,
  cast,
  straightThrough,
  sum,
  max: extremum,
  min: extremum,
  topK,
  dot,
  hadamard,
  attention,
  attentionGrad,
  hold: marked((m) => ({ time: pick(m, BINDING_TIMES) })),
  site: marked((m) => ({ role: pick(m, SITE_ROLES) })),
  update,
} satisfies Record<OpName, Make>;
