/**
 * An interpreter of kernel specifications: slow, obvious, in doubles, rounding only what it stores. Both code generators are
 * tested against it. Reads outside a buffer give 0, as they may stand in a branch of `select` that is not taken.
 */
import type {
  Access,
  AttentionKernel,
  DotKernel,
  Expr,
  KernelSpec,
  MapKernel,
  RowKernel,
  RowTransform,
  Store,
  TopKKernel,
} from "../../backends/kernel.ts";
import type { HostArray } from "../../backends/backend.ts";
import { hadamardTransform } from "../../ir/hadamard.ts";
import { erf, halfBits, halfValue, roundEven } from "../../ir/numerics.ts";
import type { MapOp } from "../../ir/ops.ts";

/** Values of earlier results of the kernel, by id. */
type Known = ReadonlyMap<number, number>;

interface Machine {
  readonly spec: KernelSpec;
  readonly buffers: readonly HostArray[];
}

/**
 * Runs a kernel on the host.
 *
 * @param spec the kernel
 * @param buffers row-major values, one array per buffer of the kernel; written ones are changed
 */
export function interpretKernel(spec: KernelSpec, buffers: HostArray[]): void {
  const machine = { spec, buffers };
  switch (spec.kind) {
    case "map":
      return interpretMap(machine, spec);
    case "row":
      return interpretRow(machine, spec);
    case "dot":
      return interpretDot(machine, spec);
    case "attention":
      return interpretAttention(machine, spec);
    case "topK":
      return interpretTopK(machine, spec);
    default:
      return spec satisfies never;
  }
}

/** Every point of a box, last axis fastest. */
function* points(dims: readonly number[]): Generator<number[]> {
  const total = dims.reduce((n, dim) => n * dim, 1);
  for (let i = 0; i < total; i++) {
    const point = dims.map(() => 0);
    for (let axis = dims.length - 1, rest = i; axis >= 0; axis--) {
      const dim = dims[axis] ?? 1;
      point[axis] = rest % dim;
      rest = Math.floor(rest / dim);
    }
    yield point;
  }
}

const elementOf = ({ offset, strides }: Access, loop: readonly number[]): number => {
  if (strides.length !== loop.length) throw new Error(`Expected ${loop.length} strides but found ${strides.length}`);
  return strides.reduce((at, stride, i) => at + stride * (loop[i] ?? 0), offset);
};

const clamp = (x: number, low: number, high: number): number => Math.min(Math.max(x, low), high);

const bufferOf = ({ spec, buffers }: Machine, index: number): HostArray => {
  const found = buffers[index];
  if (found) return found;
  throw new Error(`Kernel ${spec.name} has no buffer ${index}`);
};

function evaluate(machine: Machine, expr: Expr, loop: readonly number[], known: Known): number {
  switch (expr.kind) {
    case "constant":
      return expr.value;
    case "load":
      return bufferOf(machine, expr.buffer)[elementOf(expr.access, loop)] ?? 0;
    case "gather": {
      const row = clamp(evaluate(machine, expr.index, loop, known), 0, expr.extent - 1);
      return bufferOf(machine, expr.buffer)[elementOf(expr.access, loop) + row * expr.stride] ?? 0;
    }
    case "index":
      return elementOf(expr.access, loop);
    case "map":
      return MAP[expr.op](expr.args.map((arg) => evaluate(machine, arg, loop, known)), expr);
    case "value": {
      const found = known.get(expr.id);
      if (found === undefined) throw new Error(`Kernel ${machine.spec.name} uses value ${expr.id} before it is known`);
      return found;
    }
    default:
      return expr satisfies never;
  }
}

type MapExpr = Extract<Expr, { kind: "map" }>;

const two = (f: (a: number, b: number) => number) => ([a = 0, b = 0]: readonly number[]): number => f(a, b);
const one = (f: (a: number) => number) => ([a = 0]: readonly number[]): number => f(a);

const MAP = {
  add: two((a, b) => a + b),
  sub: two((a, b) => a - b),
  mul: two((a, b) => a * b),
  div: two((a, b) => a / b),
  exp: one(Math.exp),
  log: one(Math.log),
  sqrt: one(Math.sqrt),
  erf: one(erf),
  sigmoid: one((x) => 1 / (1 + Math.exp(-x))),
  abs: one(Math.abs),
  round: one(roundEven),
  floor: one(Math.floor),
  minimum: two((a, b) => b < a ? b : a),
  maximum: two((a, b) => b > a ? b : a),
  compare: ([a = 0, b = 0], { direction }) => {
    switch (direction) {
      case "eq":
        return Number(a === b);
      case "lt":
        return Number(a < b);
      case "le":
        return Number(a <= b);
      case "gt":
        return Number(a > b);
      case "ge":
        return Number(a >= b);
      default:
        throw new Error("A comparison lacks its direction");
    }
  },
  select: ([condition, a = 0, b = 0]) => condition ? a : b,
  cast: ([x = 0], { scalar, range, half }) => {
    if (half) return halfValue(halfBits(x));
    if (scalar !== "i32") return x;
    const [low, high] = range ?? [-(2 ** 31), 2 ** 31 - 1];
    return clamp(Math.trunc(x), low, high);
  },
  straightThrough: ([value = 0]) => value,
} satisfies Record<MapOp, (args: readonly number[], expr: MapExpr) => number>;

function write(machine: Machine, index: number, element: number, value: number): void {
  const data = bufferOf(machine, index), type = machine.spec.buffers[index]?.type;
  if (element < 0 || element >= data.length) {
    throw new Error(`Kernel ${machine.spec.name} writes outside buffer ${index}`);
  }
  data[element] = type?.dtype === "f16" ? halfValue(halfBits(value)) : value;
}

/** Evaluates all stores of a point before it does any of them: results may be in place. */
function store(machine: Machine, stores: readonly Store[], loop: readonly number[], known: Known): void {
  const writes = stores.map(({ buffer, access, value, scatter }) => {
    const row = scatter ? evaluate(machine, scatter.index, loop, known) : 0;
    const inside = !scatter || (row >= 0 && row < scatter.extent);
    return {
      buffer,
      inside,
      at: elementOf(access, loop) + row * (scatter?.stride ?? 0),
      value: evaluate(machine, value, loop, known),
    };
  });
  for (const { buffer, inside, at, value } of writes) if (inside) write(machine, buffer, at, value);
}

function interpretMap(machine: Machine, { dims, stores }: MapKernel): void {
  for (const loop of points(dims)) store(machine, stores, loop, new Map());
}

const REDUCE = {
  sum: { start: 0, fold: (a: number, b: number) => a + b },
  max: { start: -Infinity, fold: Math.max },
  min: { start: Infinity, fold: Math.min },
};

function interpretRow(machine: Machine, { outer, row, phases }: RowKernel): void {
  const places = [...points(row)];
  for (const at of points(outer)) {
    const ofRow = new Map<number, number>();
    const kept = new Map<number, Float64Array>();
    const ofElement = (i: number) => {
      const known = new Map(ofRow);
      for (const [id, values] of kept) known.set(id, values[i] ?? 0);
      return known;
    };
    for (const phase of phases) {
      const sums = phase.reductions.map(({ op }) => REDUCE[op].start);
      const fresh = new Map(
        phase.elements.filter(({ keep }) => keep).map(({ id }) => [id, new Float64Array(places.length)]),
      );
      places.forEach((place, i) => {
        const loop = [...at, ...place], known = ofElement(i);
        for (const { id, value } of phase.elements) {
          const x = evaluate(machine, value, loop, known);
          known.set(id, x);
          const slot = fresh.get(id);
          if (slot) slot[i] = x;
        }
        phase.reductions.forEach(({ op, value }, r) => {
          sums[r] = REDUCE[op].fold(sums[r] ?? 0, evaluate(machine, value, loop, known));
        });
        store(machine, phase.stores, loop, known);
      });
      for (const [id, values] of fresh) kept.set(id, values);
      phase.reductions.forEach(({ id }, r) => ofRow.set(id, sums[r] ?? 0));
      for (const { id, value } of phase.scalars) ofRow.set(id, evaluate(machine, value, at, ofRow));
      for (const transform of phase.transforms) {
        kept.set(transform.id, transformed(machine, transform, kept.get(transform.source)));
      }
      store(machine, phase.rowStores, at, ofRow);
    }
  }
}

function transformed(
  machine: Machine,
  { transposed, signs, source }: RowTransform,
  x: Float64Array | undefined,
): Float64Array {
  if (!x) throw new Error(`Kernel ${machine.spec.name} transforms value ${source}, which is not kept`);
  const sign = (i: number) => signs === undefined ? 1 : bufferOf(machine, signs)[i] ?? 0;
  const y = hadamardTransform(transposed ? x : x.map((value, i) => value * sign(i)), { transposed });
  return transposed ? y.map((value, i) => value * sign(i)) : y;
}

function interpretDot(machine: Machine, spec: DotKernel): void {
  const none: Known = new Map();
  const contract = (b: number, m: number, n: number, group: readonly number[], k: readonly number[]) => {
    let sum = 0;
    for (const place of points(k)) {
      const at = [...group, ...place];
      sum += evaluate(machine, spec.lhs, [b, m, ...at], none) * evaluate(machine, spec.rhs, [b, n, ...at], none);
    }
    return sum;
  };
  for (const [b = 0, m = 0, n = 0] of points([spec.batch, spec.m, spec.n])) {
    let total = 0;
    if (spec.groups) {
      for (let g = 0; g < (spec.k[0] ?? 1); g++) {
        const inner = contract(b, m, n, [g], spec.k.slice(1));
        total += evaluate(machine, spec.groups.term, [b, m, n, g], new Map([[spec.groups.inner, inner]]));
      }
    } else total = contract(b, m, n, [], spec.k);
    store(machine, spec.stores, [b, m, n], new Map([[spec.accumulator, total]]));
  }
}

function interpretAttention(machine: Machine, spec: AttentionKernel): void {
  const { batch, tokens, context, heads, kvHeads, width, valueWidth, scale } = spec, none: Known = new Map();
  const at = (expr: Expr | undefined, ...loop: number[]) => expr ? evaluate(machine, expr, loop, none) : 0;
  const results = new Map(spec.results.map(({ of, buffer }) => [of, buffer]));
  const sums = new Map(spec.results.map(({ buffer }) => [buffer, new Float64Array(bufferOf(machine, buffer).length)]));
  const plus = (of: "output" | "q" | "k" | "v", element: number, value: number) => {
    const sum = sums.get(results.get(of) ?? -1);
    if (sum) sum[element] = (sum[element] ?? 0) + value;
  };
  for (const [b = 0, t = 0, h = 0] of points([batch, tokens, heads])) {
    const g = Math.floor(h * kvHeads / heads), row = (b * tokens + t) * heads + h;
    const last = spec.causal ? spec.positions ? at(spec.positions, b, t) : t : context - 1;
    const first = Math.max(0, last + 1 - (spec.window ?? Infinity));
    const seen = Math.max(0, clamp(last + 1, 0, context) - first);
    const scores = Float64Array.from({ length: seen }, (_, place) => {
      const s = first + place;
      let score = 0;
      for (let i = 0; i < width; i++) score += at(spec.q, b, t, h, i) * at(spec.k, b, s, g, i);
      return score * scale + at(spec.bias, b, h, t, s);
    });
    const top = scores.reduce((a, x) => Math.max(a, x), -Infinity);
    const logSumExp = seen > 0 ? top + Math.log(scores.reduce((sum, x) => sum + Math.exp(x - top), 0)) : -Infinity;
    const saved = sums.get(results.get("logSumExp") ?? -1);
    if (saved) saved[row] = logSumExp;
    let delta = 0;
    for (let i = 0; spec.dy && i < valueWidth; i++) delta += at(spec.dy, b, t, h, i) * at(spec.output, b, t, h, i);
    scores.forEach((score, place) => {
      const s = first + place;
      const p = Math.exp(score - (spec.logSumExp ? at(spec.logSumExp, b, t, h) : logSumExp)),
        key = (b * context + s) * kvHeads + g;
      let dp = 0;
      for (let i = 0; i < valueWidth; i++) {
        plus("output", row * valueWidth + i, p * at(spec.v, b, s, g, i));
        plus("v", key * valueWidth + i, p * at(spec.dy, b, t, h, i));
        if (spec.dy) dp += at(spec.dy, b, t, h, i) * at(spec.v, b, s, g, i);
      }
      const ds = p * (dp - delta) * scale;
      for (let i = 0; spec.dy && i < width; i++) {
        plus("q", row * width + i, ds * at(spec.k, b, s, g, i));
        plus("k", key * width + i, ds * at(spec.q, b, t, h, i));
      }
    });
  }
  for (const [buffer, values] of sums) values.forEach((value, i) => write(machine, buffer, i, value));
}

function interpretTopK(machine: Machine, { outer, n, k, source, buffer }: TopKKernel): void {
  for (let row = 0; row < outer; row++) {
    const values = Array.from({ length: n }, (_, i) => evaluate(machine, source, [row, i], new Map()));
    const order = [...values.keys()].sort((i, j) => (values[j] ?? 0) - (values[i] ?? 0) || i - j);
    order.slice(0, k).forEach((i, place) => write(machine, buffer, row * k + place, i));
  }
}
