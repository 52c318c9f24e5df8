/**
 * Generates attention and its gradients. A chunk is one key/value head of one sequence with a block of queries (gradients in keys or
 * values: with all queries, so that they are summed in one order). Scores of one query at a time lie in scratch memory; keys
 * behind what a query sees are never touched.
 */
import type { AttentionKernel, Expr } from "../kernel.ts";
import { f32x4, i32, i32x4, type Local, memory, v128 } from "./assembler.ts";
import { rowsOf, type Rows, type Vectors } from "./attention_rows.ts";
import type { Emitter } from "./kernel.ts";
import { combineLanes, sumLanes } from "./lanes.ts";
import { smaller, vectorLoop } from "./nest.ts";
import { createPlace, type Index, type Place, type Vector } from "./place.ts";

/** Queries of a chunk: enough that dequantized keys are used often. */
const QUERIES = 32;
/** Vectors of a weighted sum that are kept in registers. */
const REGISTERS = 8;

/** Writes the kernel; returns its number of chunks. */
export function emitAttention(spec: AttentionKernel, emitter: Emitter): number {
  const { code, from, to, reserve, small } = emitter, { b } = code;
  const { batch, tokens, context, heads, kvHeads, width, valueWidth } = spec, group = heads / kvHeads;
  const resultOf = (name: AttentionKernel["results"][number]["of"]) => {
    const found = spec.results.find(({ of }) => of === name);
    return found && code.buffers[found.buffer]?.base;
  };
  const wants = { q: resultOf("q"), k: resultOf("k"), v: resultOf("v") };
  const gradient = wants.q !== undefined || wants.k !== undefined || wants.v !== undefined;
  const queries = wants.k || wants.v ? tokens : Math.min(tokens, QUERIES), blocks = Math.ceil(tokens / queries);
  const queryExtents = [batch, tokens, heads], keyExtents = [batch, context, kvHeads];
  const rows = (expr: Expr | undefined, extents: readonly number[], length: number): Rows | undefined =>
    expr && rowsOf(emitter, expr, [...extents, length]);
  const q = rows(spec.q, queryExtents, width), k = rows(spec.k, keyExtents, width), v = rows(spec.v, keyExtents, valueWidth);
  const dy = rows(spec.dy, queryExtents, valueWidth), output = rows(spec.output, queryExtents, valueWidth);
  if (!q || !k || !v) throw new Error("Internal error: attention lacks an operand");
  const one = { query: q.room(1), dy: dy?.room(1), output: output?.room(1) };
  const all = { keys: k.room(context), values: v.room(context) };
  const scores = reserve(4 * (context + 4)), slopes = gradient ? reserve(4 * (context + 4)) : scores;
  const sums = {
    k: wants.k && reserve(4 * q.padded * context),
    v: wants.v && reserve(4 * v.padded * context),
  };
  const places = {
    bias: createPlace(code, [batch, heads, tokens, context]),
    positions: createPlace(code, [batch, tokens]),
    logSumExp: createPlace(code, queryExtents),
  };

  /** Number of keys that a query sees. */
  const seen = (sequence: Index, token: Index): Index => {
    if (!spec.causal) return i32.const(context);
    let last: Index = token;
    const { positions } = spec;
    if (positions) {
      places.positions.within(0, sequence, undefined, () =>
        places.positions.within(1, token, undefined, () => {
          last = i32x4.extract_lane(places.positions.value(positions), 0);
        }));
    }
    const count = b.let("count", i32.add(last, 1));
    const bounded = b.let("bounded", smaller(count, i32.const(context)));
    return b.let("seen", i32.mul(bounded, i32.gt_s(bounded, 0)));
  };

  const chunk = (index: Index) => {
    const block = b.let("block", i32.rem_u(index, blocks)), rest = b.let("rest", i32.div_u(index, blocks));
    const head = b.let("kv_head", i32.rem_u(rest, kvHeads)), sequence = b.let("sequence", i32.div_u(rest, kvHeads));
    const start = b.let("first_query", i32.mul(block, queries));
    const end = b.let("last_query", smaller(i32.add(start, queries), i32.const(tokens)));
    const most = b.local("most", "i32");
    if (spec.causal) {
      b.set(most, 0);
      b.for("token", start, end, 1, (token) => {
        const count = seen(sequence, token);
        b.set(most, i32.sub(i32.add(most, count), smaller(most, count)));
      });
    } else b.set(most, context);
    const keys = k.fill(all.keys, [sequence, i32.const(0), head], 1, most);
    const values = v.fill(all.values, [sequence, i32.const(0), head], 1, most);
    if (sums.k) b.emit(memory.fill(sums.k, 0, 4 * q.padded * context));
    if (sums.v) b.emit(memory.fill(sums.v, 0, 4 * v.padded * context));
    b.for("group", 0, group, 1, (member) => {
      const own = b.let("head", i32.add(i32.mul(head, group), member));
      b.for("token", start, end, 1, (token) => {
        const at = [sequence, token, own], count = seen(sequence, token);
        const row = b.let("row", i32.add(i32.mul(i32.add(i32.mul(sequence, tokens), token), heads), own));
        const query = q.fill(one.query, at, 1, i32.const(1));
        const context_ = { at, count, row, query, keys, values };
        if (gradient) backward(context_);
        else forward(context_);
      });
    });
    const finish = (result: Index | undefined, sum: Index | undefined, vectors: Rows, length: number) => {
      if (!result || !sum) return;
      b.for("key", 0, context, 1, (key) => {
        const row = i32.add(i32.mul(i32.add(i32.mul(sequence, context), key), kvHeads), head);
        const target = b.let("target", i32.add(result, i32.mul(row, 4 * length)));
        const source = b.let("source", i32.add(sum, i32.mul(key, 4 * vectors.padded)));
        copyRow(emitter, source, target, length);
      });
    };
    finish(wants.k, sums.k, q, width);
    finish(wants.v, sums.v, v, valueWidth);
  };

  interface Query {
    readonly at: readonly Index[];
    readonly count: Index;
    readonly row: Index;
    readonly query: Vectors;
    readonly keys: Vectors;
    readonly values: Vectors;
  }

  /** Runs over the keys that a query sees, four at a time; `use` receives their index, their bias and which lanes count. */
  const sweep = ({ at, count }: Query, use: (key: Index, bias: Vector | undefined, active: Vector) => void) => {
    const { bias } = spec, place = places.bias, [sequence, token, head] = at;
    if (!sequence || !token || !head) return;
    const limit = b.let("limit", i32x4.splat(count)), upTo = b.let("up_to", i32.and(i32.add(count, 3), -4));
    const run = () =>
      vectorLoop(place, 3, context, (key) => {
        const active = b.let("active", i32x4.lt_s(i32x4.add(i32x4.splat(key), i32x4.const(0, 1, 2, 3)), limit));
        use(key, bias && place.value(bias), active);
      }, { from: i32.const(0), to: upTo });
    place.within(0, sequence, undefined, () =>
      place.within(1, head, undefined, () =>
        place.within(2, token, undefined, () => {
          if (bias) place.prepare([bias]);
          run();
        })));
  };

  const scoreAt = (key: Index): Index => b.let("at", i32.add(scores, i32.shl(key, 2)));

  const forward = (query: Query) => {
    const { count, row, keys, values } = query, largest = b.let("largest", f32x4.const(-Infinity));
    sweep(query, (key, bias, active) => {
      const product = f32x4.mul(dotFour(emitter, query.query, keys, key, context), f32x4.const(spec.scale));
      const score = v128.bitselect(bias ? f32x4.add(product, bias) : product, f32x4.const(-Infinity), active);
      const kept = b.let("score", score);
      b.emit(v128.store(scoreAt(key), kept));
      b.set(largest, f32x4.max(largest, kept));
    });
    const top = b.let("top", combineLanes(b, f32x4.max, largest)), sum = b.let("sum", f32x4.const(0));
    const upTo = b.let("up_to", i32.and(i32.add(count, 3), -4));
    b.for("key", 0, upTo, 4, (key) => {
      const address = scoreAt(key);
      const p = b.let("p", code.math.f32x4.exp(b, f32x4.sub(v128.load(address), top)));
      b.emit(v128.store(address, p));
      b.set(sum, f32x4.add(sum, p));
    });
    const total = b.let("total", combineLanes(b, f32x4.add, sum)), none = i32x4.splat(i32.eqz(count));
    const logSumExp = resultOf("logSumExp"), result = resultOf("output");
    if (logSumExp) {
      const value = f32x4.add(top, code.math.f32x4.log(b, total));
      const guarded = v128.bitselect(value, f32x4.const(-Infinity), i32x4.eq(none, i32x4.const(0)));
      b.emit(v128.store32_lane(i32.add(logSumExp, i32.shl(row, 2)), guarded, 0));
    }
    if (result) {
      const inverse = b.let("inverse", v128.bitselect(f32x4.div(f32x4.const(1), total), f32x4.const(0), i32x4.eq(none, i32x4.const(0))));
      weightedSum(emitter, { weights: scores, count, rows: values, scale: inverse, length: valueWidth, to: i32.add(result, i32.mul(row, 4 * valueWidth)) });
    }
  };

  const backward = (query: Query) => {
    const { at, count, row, keys, values } = query, { logSumExp } = spec;
    if (!dy || !output || !one.dy || !one.output || !logSumExp) throw new Error("Internal error: a gradient of attention lacks an operand");
    const gradientRow = dy.fill(one.dy, at, 1, i32.const(1)), outputRow = output.fill(one.output, at, 1, i32.const(1));
    const zero = i32.const(0), delta = b.let("delta", combineLanes(b, f32x4.add, dotRow(emitter, gradientRow, outputRow, zero, 1)));
    const place = places.logSumExp, largest = b.local("log_sum_exp", "v128");
    openAll(place, at, () => b.set(largest, place.value(logSumExp)));
    sweep(query, (key, bias, active) => {
      const product = f32x4.mul(dotFour(emitter, query.query, keys, key, context), f32x4.const(spec.scale));
      const score = f32x4.sub(bias ? f32x4.add(product, bias) : product, largest);
      const p = b.let("p", v128.and(code.math.f32x4.exp(b, score), active));
      const dp = dotFour(emitter, gradientRow, values, key, context);
      const slope = f32x4.mul(f32x4.mul(p, f32x4.sub(dp, delta)), f32x4.const(spec.scale));
      b.emit(v128.store(scoreAt(key), p));
      b.emit(v128.store(i32.add(slopes, i32.shl(key, 2)), v128.and(slope, active)));
    });
    if (wants.q) {
      const to = i32.add(wants.q, i32.mul(row, 4 * width));
      weightedSum(emitter, { weights: slopes, count, rows: keys, scale: f32x4.const(1), length: width, to });
    }
    const spread = (sum: Index | undefined, weights: Index, source: Vectors) => {
      if (!sum) return;
      b.for("key", 0, count, 1, (key) => {
        const weight = b.let("weight", v128.load32_splat(i32.add(weights, i32.shl(key, 2))));
        const target = b.let("target", i32.add(sum, i32.mul(key, 4 * source.padded)));
        const from = source.row(i32.const(0));
        for (let i = 0; i < source.padded; i += 4) {
          b.emit(v128.store(target, code.math.madd(weight, v128.load(from, 4 * i), v128.load(target, 4 * i)), 4 * i));
        }
      });
    };
    spread(sums.k, slopes, query.query);
    spread(sums.v, scores, gradientRow);
  };

  const total = batch * kvHeads * blocks, work = batch * heads * tokens * context * (width + valueWidth);
  if (work < small * 32) {
    b.for("chunk", 0, total, 1, chunk);
    return 1;
  }
  b.for("chunk", from, to, 1, chunk);
  return total;
}

function openAll(place: Place, at: readonly Index[], body: () => void, variable = 0): void {
  const index = at[variable];
  if (!index) return body();
  place.within(variable, index, undefined, () => openAll(place, at, body, variable + 1));
}

/** The sum over vectors of x · y, not yet across lanes. */
function dotRow({ code: { b, math } }: Emitter, x: Vectors, y: Vectors, row: Index, _: number): Vector {
  const left = x.row(row), right = y.row(row), sum = b.let("sum", f32x4.const(0));
  for (let i = 0; i < x.padded; i += 4) b.set(sum, math.madd(v128.load(left, { offset: 4 * i, align: 4 }), v128.load(right, { offset: 4 * i, align: 4 }), sum));
  return sum;
}

/** x · y for four rows of y from `first` on; rows behind the last one are that one. */
function dotFour({ code: { b, math } }: Emitter, x: Vectors, y: Vectors, first: Index, rows: number): Vector {
  const left = x.row(i32.const(0));
  const pointers = [0, 1, 2, 3].map((i) => y.row(b.let("key", smaller(i32.add(first, i), i32.const(rows - 1)))));
  const sums = pointers.map((): Local<"v128"> => b.let("sum", f32x4.const(0)));
  for (let i = 0; i < x.padded; i += 4) {
    const a = b.let("a", v128.load(left, { offset: 4 * i, align: 4 }));
    sums.forEach((sum, r) => {
      const pointer = pointers[r];
      if (pointer) b.set(sum, math.madd(a, v128.load(pointer, { offset: 4 * i, align: 4 }), sum));
    });
  }
  return b.let("product", sumLanes(b, sums, f32x4.add));
}

interface WeightedSum {
  readonly weights: Index;
  readonly count: Index;
  readonly rows: Vectors;
  readonly scale: Vector;
  readonly length: number;
  readonly to: Index;
}

/** scale · Σ weight · row, for `count` rows, stored to f32 at `to`. */
function weightedSum({ code: { b, math } }: Emitter, { weights, count, rows, scale, length, to }: WeightedSum): void {
  const target = b.let("target", to);
  for (let start = 0; start < length; start += 4 * REGISTERS) {
    const vectors = Math.min(REGISTERS, Math.ceil((length - start) / 4));
    const sums = Array.from({ length: vectors }, () => b.let("sum", f32x4.const(0)));
    b.for("key", 0, count, 1, (key) => {
      const weight = b.let("weight", v128.load32_splat(i32.add(weights, i32.shl(key, 2)))), row = rows.row(key);
      sums.forEach((sum, i) => b.set(sum, math.madd(weight, v128.load(row, { offset: 4 * (start + 4 * i), align: 4 }), sum)));
    });
    sums.forEach((sum, i) => storeFirst(b, target, b.let("scaled", f32x4.mul(sum, scale)), start + 4 * i, length));
  }
}

/** Copies a row of f32 whose source is padded to whole vectors. */
function copyRow({ code: { b } }: Emitter, from: Index, to: Index, length: number): void {
  for (let i = 0; i < length; i += 4) storeFirst(b, to, b.let("x", v128.load(from, 4 * i)), i, length);
}

/** Stores the lanes of elements `at` … that lie before `length`. */
function storeFirst(b: Emitter["code"]["b"], to: Index, value: Vector, at: number, length: number): void {
  if (at + 4 <= length) return b.emit(v128.store(to, value, { offset: 4 * at, align: 4 }));
  for (let lane = 0; at + lane < length; lane++) b.emit(v128.store32_lane(to, value, lane, 4 * (at + lane)));
}
