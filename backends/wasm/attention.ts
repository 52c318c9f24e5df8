/**
 * Generates attention and its gradients. A chunk is one key/value head of one sequence with a block of queries (gradients in keys or
 * values: with all queries, so that they are summed in one order). Scores of one query at a time lie in scratch memory; keys
 * behind what a query sees, or before its window, are never used.
 */
import type { AttentionKernel, Expr } from "../kernel.ts";
import { f32x4, i32, i32x4, memory, v128 } from "./assembler.ts";
import {
  addMultiples,
  copyRow,
  type HeldRow,
  hold,
  multiplyFour,
  multiplyRows,
  weightedSum,
} from "./attention_products.ts";
import { rowsOf, type Vectors } from "./attention_rows.ts";
import type { Emitter } from "./kernel.ts";
import { combineLanes } from "./lanes.ts";
import { smaller, vectorLoop } from "./nest.ts";
import { createPlace, type Index, type Place, type Vector } from "./place.ts";

/** Queries of a chunk: enough that dequantized keys are used often. */
const QUERIES = 32;
/** Multiply-adds of a head below which a kernel is one chunk, per point that is small for other kernels. */
const SMALL_PRODUCT = 32;

/** Writes the kernel; returns its number of chunks. */
export function emitAttention(spec: AttentionKernel, emitter: Emitter): number {
  const { code: { b }, from, to, small } = emitter;
  const { batch, tokens, context, heads, kvHeads, width, valueWidth } = spec, group = heads / kvHeads;
  const gradient = gradientOf(spec, emitter), forward = gradient ? undefined : forwardOf(spec, emitter);
  const queries = gradient?.sums ? tokens : Math.min(tokens, QUERIES), blocks = Math.ceil(tokens / queries);
  const keyExtents = [batch, context, kvHeads];
  const q = rowsOf(emitter, spec.q, [batch, tokens, heads, width]), k = rowsOf(emitter, spec.k, [...keyExtents, width]);
  const v = rowsOf(emitter, spec.v, [...keyExtents, valueWidth]);
  const room = { query: q.room(1), keys: k.room(context), values: v.room(context) };
  const seen = seenOf(spec, emitter);

  const chunk = (index: Index) => {
    const block = b.let("block", i32.rem_u(index, blocks)), rest = b.let("rest", i32.div_u(index, blocks));
    const head = b.let("kv_head", i32.rem_u(rest, kvHeads)), sequence = b.let("sequence", i32.div_u(rest, kvHeads));
    const start = b.let("first_query", i32.mul(block, queries));
    const end = b.let("last_query", smaller(i32.add(start, queries), i32.const(tokens)));
    const most = b.let("most", i32.const(spec.causal ? 0 : context));
    const least = spec.window === undefined ? undefined : b.let("least", i32.const(context));
    if (spec.causal) {
      b.for("token", start, end, 1, (token) => {
        const { count, from } = seen(sequence, token);
        b.set(most, larger(most, count));
        if (least) b.set(least, smaller(least, from));
      });
    }
    const first = [sequence, i32.const(0), head];
    const keys = k.fill(room.keys, first, 1, most, least), values = v.fill(room.values, first, 1, most, least);
    gradient?.begin();
    b.for("group", 0, group, 1, (member) => {
      const own = b.let("head", i32.add(i32.mul(head, group), member));
      b.for("token", start, end, 1, (token) => {
        const at = [sequence, token, own], { count, from } = seen(sequence, token);
        const row = b.let("row", i32.add(i32.mul(i32.add(i32.mul(sequence, tokens), token), heads), own));
        const query = hold(b, q.fill(room.query, at, 1, i32.const(1)));
        (gradient ?? forward)?.query({ at, from, count, row, query, keys, values });
      });
    });
    gradient?.end(sequence, head);
  };

  const total = batch * kvHeads * blocks, work = batch * heads * tokens * context * (width + valueWidth);
  if (work < small * SMALL_PRODUCT) {
    b.for("chunk", 0, total, 1, chunk);
    return 1;
  }
  b.for("chunk", from, to, 1, chunk);
  return total;
}

/** One query and what it looks at. */
interface Query {
  /** Sequence, token, head. */
  readonly at: readonly Index[];
  /** The keys it sees: the first of them, and the one behind the last. */
  readonly from: Index;
  readonly count: Index;
  /** Its row among all queries. */
  readonly row: Index;
  readonly query: HeldRow;
  readonly keys: Vectors;
  readonly values: Vectors;
}

/** What is done for a query, and for a chunk before and after. */
interface Gradient {
  /** Whether gradients are summed over queries. */
  readonly sums: boolean;
  begin(): void;
  query(query: Query): void;
  end(sequence: Index, head: Index): void;
}

/** Address of a result, or undefined when it is not asked for. */
function resultOf(
  spec: AttentionKernel,
  { code }: Emitter,
  of: AttentionKernel["results"][number]["of"],
): Index | undefined {
  const found = spec.results.find((result) => result.of === of);
  return found && code.buffers[found.buffer]?.base;
}

/** The larger of two i32. */
const larger = (a: Index, b: Index): Index => i32.sub(i32.add(a, b), smaller(a, b));

/** A writer of the keys that a query sees, from `from` to before `count`; never is `from` behind `count`. */
function seenOf({ causal, window, positions, context, batch, tokens }: AttentionKernel, { code }: Emitter) {
  const { b } = code, place = createPlace(code, [batch, tokens]);
  return (sequence: Index, token: Index): { readonly from: Index; readonly count: Index } => {
    if (!causal) return { from: i32.const(0), count: i32.const(context) };
    let last: Index = token;
    if (positions) openAll(place, [sequence, token], () => last = i32x4.extract_lane(place.value(positions), 0));
    const bounded = b.let("bounded", smaller(b.let("count", i32.add(last, 1)), i32.const(context)));
    const count = b.let("seen", i32.mul(bounded, i32.gt_s(bounded, 0)));
    if (window === undefined) return { from: i32.const(0), count };
    const start = b.let("window_start", i32.sub(i32.add(last, 1), window));
    return { from: b.let("from", smaller(i32.mul(start, i32.gt_s(start, 0)), count)), count };
  };
}

/** A writer of loops over the keys that a query sees, four at a time; lanes behind and before them are not active. */
function sweepOf({ bias, scale, batch, heads, tokens, context, window }: AttentionKernel, { code }: Emitter) {
  const { b } = code, place = createPlace(code, [batch, heads, tokens, context]);
  return (query: Query, use: (four: { key: Index; score: Vector; active: Vector; lanes: number }) => void) => {
    const [sequence, token, head] = query.at as [Index, Index, Index], { from, count } = query;
    const limit = b.let("limit", i32x4.splat(count)), upTo = b.let("up_to", i32.and(i32.add(count, 3), -4));
    const least = window === undefined ? undefined : b.let("least", i32x4.splat(from));
    openAll(place, [sequence, head, token], () => {
      if (bias) place.prepare([bias]);
      vectorLoop(place, 3, context, (key) => {
        const number = i32x4.add(i32x4.splat(key), i32x4.const(0, 1, 2, 3)),
          numbers = least ? b.let("keys", number) : number;
        const before = i32x4.lt_s(numbers, limit);
        const active = b.let("active", least ? v128.and(before, i32x4.ge_s(numbers, least)) : before);
        const { lanes } = place,
          product = multiplyFour(code, query.query, query.keys, { first: key, lanes, last: context - 1 });
        const scaled = f32x4.mul(product, f32x4.const(scale));
        use({ key, score: bias ? f32x4.add(scaled, place.value(bias)) : scaled, active, lanes });
      }, { range: { from: firstFour(query, window), to: upTo } });
    });
  };
}

/** Opens the first variables of a place. */
function openAll(place: Place, at: readonly Index[], body: () => void, variable = 0): void {
  const index = at[variable];
  if (!index) return body();
  place.within(variable, index, undefined, () => openAll(place, at, body, variable + 1));
}

/** The multiple of four at or before the first key that a query sees. */
const firstFour = ({ from }: Query, window: number | undefined): Index =>
  window === undefined ? i32.const(0) : i32.and(from, -4);

/** Address of the f32 of a key in a list. */
const entry = (list: Index, key: Index): Index => i32.add(list, i32.shl(key, 2));

/** softmax(scale · q kᵀ + bias) v and the log-sum-exp of the scores. */
function forwardOf(spec: AttentionKernel, emitter: Emitter): Pick<Gradient, "query"> {
  const { code, reserve } = emitter, { b, math } = code, { context, valueWidth, window } = spec;
  const weights = reserve(4 * (context + 4)), sweep = sweepOf(spec, emitter);
  const logSumExp = resultOf(spec, emitter, "logSumExp"), output = resultOf(spec, emitter, "output");
  return {
    query(query) {
      const { from, count, row, values } = query, largest = b.let("largest", f32x4.const(-Infinity));
      sweep(query, ({ key, score, active }) => {
        const kept = b.let("score", v128.bitselect(score, f32x4.const(-Infinity), active));
        b.emit(v128.store(entry(weights, key), kept));
        b.set(largest, f32x4.max(largest, kept));
      });
      const top = combineLanes(b, f32x4.max, largest), sum = b.let("sum", f32x4.const(0));
      b.for("key", firstFour(query, window), b.let("up_to", i32.and(i32.add(count, 3), -4)), 4, (key) => {
        const at = b.let("at", entry(weights, key));
        const p = b.let("p", math.f32x4.exp(b, f32x4.sub(v128.load(at), top)));
        b.emit(v128.store(at, p));
        b.set(sum, f32x4.add(sum, p));
      });
      const total = combineLanes(b, f32x4.add, sum),
        some = b.let("some", i32x4.gt_s(i32x4.splat(count), i32x4.splat(from)));
      if (logSumExp) {
        const value = f32x4.add(top, math.f32x4.log(b, total));
        b.emit(v128.store32_lane(entry(logSumExp, row), v128.bitselect(value, f32x4.const(-Infinity), some), 0));
      }
      if (output) {
        const scale = b.let("inverse", v128.and(f32x4.div(f32x4.const(1), total), some));
        const to = i32.add(output, i32.mul(row, 4 * valueWidth));
        weightedSum(code, { weights, rows: values, from, count }, { scale, length: valueWidth, to });
      }
    },
  };
}

/** Gradients in q, k and v, where any is asked for; probabilities are computed again from the log-sum-exp. */
function gradientOf(spec: AttentionKernel, emitter: Emitter): Gradient | undefined {
  const { code, reserve } = emitter,
    { b, math } = code,
    { batch, tokens, context, heads, kvHeads, width, valueWidth, scale } = spec;
  const [intoQ, intoK, intoV] = (["q", "k", "v"] as const).map((of) => resultOf(spec, emitter, of));
  if (!intoQ && !intoK && !intoV) return undefined;
  const operand = (expr: Expr | undefined): Expr => {
    if (expr) return expr;
    throw new Error("Internal error: a gradient of attention lacks an operand");
  };
  const extents = [batch, tokens, heads], logSumExp = operand(spec.logSumExp), place = createPlace(code, extents);
  const dy = rowsOf(emitter, operand(spec.dy), [...extents, valueWidth]), dyRoom = dy.room(1);
  const output = rowsOf(emitter, operand(spec.output), [...extents, valueWidth]), outputRoom = output.room(1);
  const weights = reserve(4 * (context + 4)), slopes = reserve(4 * (context + 4)), sweep = sweepOf(spec, emitter);
  const sumRows = (length: number): Vectors & { readonly address: Index; readonly bytes: number } => {
    const padded = Math.ceil(length / 4) * 4, stride = 4 * padded, bytes = stride * context, address = reserve(bytes);
    return { padded, stride, bytes, address, row: (index) => b.let("row", i32.add(address, i32.mul(index, stride))) };
  };
  const sums = { k: intoK && sumRows(width), v: intoV && sumRows(valueWidth) };
  return {
    sums: intoK !== undefined || intoV !== undefined,
    begin() {
      for (const sum of [sums.k, sums.v]) if (sum) b.emit(memory.fill(sum.address, 0, sum.bytes));
    },
    query(query) {
      const { at, from, count, row, keys, values } = query;
      const slope = hold(b, dy.fill(dyRoom, at, 1, i32.const(1)));
      const share = combineLanes(b, f32x4.add, multiplyRows(code, slope, output.fill(outputRoom, at, 1, i32.const(1))));
      const normalizer = b.local("log_sum_exp", "v128");
      openAll(place, at, () => b.set(normalizer, place.value(logSumExp)));
      sweep(query, ({ key, score, active, lanes }) => {
        const p = b.let("p", v128.and(math.f32x4.exp(b, f32x4.sub(score, normalizer)), active));
        const product = multiplyFour(code, slope, values, { first: key, lanes, last: context - 1 });
        const change = f32x4.mul(f32x4.mul(p, f32x4.sub(product, share)), f32x4.const(scale));
        b.emit(v128.store(entry(weights, key), p), v128.store(entry(slopes, key), v128.and(change, active)));
      });
      if (intoQ) {
        const to = i32.add(intoQ, i32.mul(row, 4 * width));
        weightedSum(code, { weights: slopes, rows: keys, from, count }, { scale: f32x4.const(1), length: width, to });
      }
      if (sums.k) addMultiples(code, { weights: slopes, rows: sums.k, from, count }, query.query);
      if (sums.v) addMultiples(code, { weights, rows: sums.v, from, count }, slope);
    },
    end(sequence, head) {
      const finish = (result: Index | undefined, sum: Vectors | undefined, length: number) => {
        if (!result || !sum) return;
        b.for("key", 0, context, 1, (key) => {
          const row = i32.add(i32.mul(i32.add(i32.mul(sequence, context), key), kvHeads), head);
          copyRow(b, sum.row(key), b.let("target", i32.add(result, i32.mul(row, 4 * length))), length);
        });
      };
      finish(intoK, sums.k, width);
      finish(intoV, sums.v, valueWidth);
    },
  };
}
