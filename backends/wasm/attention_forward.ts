/** Writes attention itself: softmax(scale · q kᵀ + bias) v and the log-sum-exp of the scores. */
import type { AttentionKernel } from "../kernel.ts";
import { f32x4, i32, i32x4, v128 } from "./assembler.ts";
import { BLOCK, QUERIES_OF_BLOCK, type Range, weightedSums } from "./attention_blocks.ts";
import { weightedSum } from "./attention_products.ts";
import { blockSweepOf, entry, firstFour, listBytes, type QueryWriter, resultOf, sweepOf } from "./attention_queries.ts";
import type { Emitter } from "./emitter.ts";
import { combineLanes } from "./lanes.ts";
import type { Index, Vector } from "./place.ts";

/** A writer that turns a list of scores into e^(score - largest), stores their log-sum-exp, and gives 1 / their sum, 0 where there is none. */
export function softmaxOf(spec: AttentionKernel, emitter: Emitter) {
  const { code: { b, math } } = emitter, { window } = spec, logSumExp = resultOf(spec, emitter, "logSumExp");
  return ({ from, count }: Range, row: Index, list: Index, largest: Vector): Vector => {
    const top = combineLanes(b, f32x4.max, largest), sum = b.let("sum", f32x4.const(0));
    b.for("key", firstFour({ from }, window), b.let("up_to", i32.and(i32.add(count, 3), -4)), 4, (key) => {
      const at = b.let("at", entry(list, key));
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
    return b.let("inverse", v128.and(f32x4.div(f32x4.const(1), total), some));
  };
}

/** See the top of this file. */
export function forwardOf(spec: AttentionKernel, emitter: Emitter, blocked: boolean): QueryWriter {
  const { code, reserve } = emitter, { b } = code, { context, valueWidth } = spec, softmax = softmaxOf(spec, emitter);
  const stride = listBytes(context), weights = reserve(stride * (blocked ? BLOCK : 1));
  const sweep = sweepOf(spec, emitter), blockSweep = blockSweepOf(spec, emitter);
  const output = resultOf(spec, emitter, "output");
  const target = (to: Index, row: Index): Index => i32.add(to, i32.mul(row, 4 * valueWidth));

  return {
    sums: false,
    begin() {},
    query(query) {
      const { from, count, row, values } = query, largest = b.let("largest", f32x4.const(-Infinity));
      sweep(query, ({ key, score, active }) => {
        const kept = b.let("score", v128.bitselect(score, f32x4.const(-Infinity), active));
        b.emit(v128.store(entry(weights, key), kept));
        b.set(largest, f32x4.max(largest, kept));
      });
      const scale = softmax(query, row, weights, largest);
      if (output) {
        weightedSum(code, { weights, rows: values, from, count }, {
          scale,
          length: valueWidth,
          to: target(output, row),
        });
      }
    },
    block(block) {
      const { seen, common, rows, values } = block;
      const largest = QUERIES_OF_BLOCK.map(() => b.let("largest", f32x4.const(-Infinity)));
      blockSweep(block, ({ key, r, score, active }) => {
        const kept = b.let("score", v128.bitselect(score, f32x4.const(-Infinity), active())), most = largest[r];
        b.emit(v128.store(entry(weights, key), kept, r * stride));
        if (most) b.set(most, f32x4.max(most, kept));
      });
      const scales = QUERIES_OF_BLOCK.map((r) =>
        softmax(
          seen[r] as Range,
          rows[r] as Index,
          b.let("list", i32.add(weights, r * stride)),
          largest[r] as Vector,
        )
      );
      if (output) {
        const to = rows.map((row) => b.let("target", target(output, row)));
        weightedSums(code, { weights, stride, rows: values, seen, common }, { scales, length: valueWidth, to });
      }
    },
    end() {},
  };
}
