/** Writes the gradients of attention in q, k and v; probabilities are computed again from the log-sum-exp. */
import type { AttentionKernel, Expr } from "../kernel.ts";
import { f32x4, i32, memory, v128 } from "./assembler.ts";
import { addMultiplesOfBlock, BLOCK, multiplyBlock, QUERIES_OF_BLOCK, weightedSums } from "./attention_blocks.ts";
import { addMultiples, copyRow, hold, multiplyFour, multiplyRows, weightedSum } from "./attention_products.ts";
import {
  activeOf,
  addressesOf,
  blockSweepOf,
  entry,
  listBytes,
  openAll,
  type QueryWriter,
  resultOf,
  sweepOf,
} from "./attention_queries.ts";
import { rowsOf, type Vectors } from "./attention_rows.ts";
import type { Emitter } from "./emitter.ts";
import { combineLanes } from "./lanes.ts";
import { createPlace, type Index, type Vector } from "./place.ts";

/** The writer, where any gradient is asked for. */
export function gradientOf(spec: AttentionKernel, emitter: Emitter, blocked: boolean): QueryWriter | undefined {
  const { code, reserve } = emitter,
    { b, math } = code,
    { batch, tokens, context, heads, kvHeads, width, valueWidth, scale, window } = spec;
  const [intoQ, intoK, intoV] = (["q", "k", "v"] as const).map((of) => resultOf(spec, emitter, of));
  if (!intoQ && !intoK && !intoV) return undefined;
  const operand = (expr: Expr | undefined): Expr => {
    if (expr) return expr;
    throw new Error("Internal error: a gradient of attention lacks an operand");
  };
  const extents = [batch, tokens, heads], logSumExp = operand(spec.logSumExp), place = createPlace(code, extents);
  const several = blocked ? BLOCK : 1, stride = listBytes(context);
  const dy = rowsOf(emitter, operand(spec.dy), [...extents, valueWidth]), dyRoom = dy.room(several);
  const output = rowsOf(emitter, operand(spec.output), [...extents, valueWidth]), outputRoom = output.room(1);
  const weights = reserve(stride * several), slopes = reserve(stride * several);
  const sweep = sweepOf(spec, emitter), blockSweep = blockSweepOf(spec, emitter);
  const sumRows = (length: number): Vectors & { readonly address: Index; readonly bytes: number } => {
    const padded = Math.ceil(length / 4) * 4, stride = 4 * padded, bytes = stride * context, address = reserve(bytes);
    return { padded, stride, bytes, address, row: (index) => b.let("row", i32.add(address, i32.mul(index, stride))) };
  };
  const sums = { k: intoK && sumRows(width), v: intoV && sumRows(valueWidth) };

  /** What all keys' slopes of a query share, dy · output, and its log-sum-exp. */
  const perQuery = (at: readonly Index[], slope: (i: number) => Vector) => {
    const share = combineLanes(b, f32x4.add, multiplyRows(code, slope, output.fill(outputRoom, at, 1, i32.const(1))));
    const normalizer = b.local("log_sum_exp", "v128");
    openAll(place, at, () => b.set(normalizer, place.value(logSumExp)));
    return { share, normalizer };
  };
  const changeOf = (p: Vector, product: Vector, share: Vector): Vector =>
    f32x4.mul(f32x4.mul(p, f32x4.sub(product, share)), f32x4.const(scale));
  const target = (to: Index, row: Index): Index => i32.add(to, i32.mul(row, 4 * width));

  return {
    sums: intoK !== undefined || intoV !== undefined,
    begin() {
      for (const sum of [sums.k, sums.v]) if (sum) b.emit(memory.fill(sum.address, 0, sum.bytes));
    },
    query(query) {
      const { at, from, count, row, keys, values } = query;
      const slope = hold(b, dy.fill(dyRoom, at, 1, i32.const(1))), { share, normalizer } = perQuery(at, slope);
      sweep(query, ({ key, score, active, lanes }) => {
        const p = b.let("p", v128.and(math.f32x4.exp(b, f32x4.sub(score, normalizer)), active));
        const product = multiplyFour(code, slope, values, { first: key, lanes, last: context - 1 });
        b.emit(
          v128.store(entry(weights, key), p),
          v128.store(entry(slopes, key), v128.and(changeOf(p, product, share), active)),
        );
      });
      if (intoQ) {
        const sum = { scale: f32x4.const(1), length: width, to: target(intoQ, row) };
        weightedSum(code, { weights: slopes, rows: keys, from, count }, sum);
      }
      if (sums.k) addMultiples(code, { weights: slopes, rows: sums.k, from, count }, query.query);
      if (sums.v) addMultiples(code, { weights, rows: sums.v, from, count }, slope);
    },
    block(block) {
      const { at: [sequence, token, head], seen, common, rows, queries, keys, valueLines } = block;
      if (!sequence || !token || !head || !valueLines) throw new Error("Internal error: a block lacks operands");
      const dys = dy.fill(dyRoom, [sequence, token, head], 1, i32.const(BLOCK)), slopeRows = addressesOf(dys);
      const rowAt = (at: Index) => (i: number): Vector => v128.load(at, { offset: 16 * i, align: 4 });
      const each = QUERIES_OF_BLOCK.map((r) =>
        perQuery([sequence, b.let("token", i32.add(token, r)), head], rowAt(slopeRows[r] as Index))
      );
      const partOf = (r: number) => each[r] as { share: Vector; normalizer: Vector };
      blockSweep(block, ({ key, r, score, active }) => {
        const p = v128.and(math.f32x4.exp(b, f32x4.sub(score, partOf(r).normalizer)), active());
        b.emit(v128.store(entry(weights, key), p, r * stride));
      }, (key) => {
        multiplyBlock(code, slopeRows, valueLines, key).forEach((fours, r) =>
          fours.forEach((product, half) => {
            const first = b.let("four", i32.add(key, 4 * half));
            const p = v128.load(entry(weights, first), r * stride), change = changeOf(p, product, partOf(r).share);
            const active = activeOf(seen[r], first, window !== undefined);
            b.emit(v128.store(entry(slopes, first), v128.and(change, active), r * stride));
          })
        );
      });
      const lists = { stride, seen, common };
      if (intoQ) {
        const sum = {
          scales: QUERIES_OF_BLOCK.map(() => f32x4.const(1)),
          length: width,
          to: rows.map((row) => b.let("target", target(intoQ, row))),
        };
        weightedSums(code, { ...lists, weights: slopes, rows: keys }, sum);
      }
      const queryRows = addressesOf(queries);
      if (sums.k) addMultiplesOfBlock(code, { ...lists, weights: slopes, rows: sums.k }, queryRows.map(rowAt));
      if (sums.v) addMultiplesOfBlock(code, { ...lists, weights, rows: sums.v }, slopeRows.map(rowAt));
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
