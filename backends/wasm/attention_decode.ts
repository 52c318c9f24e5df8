/**
 * Attention of one token per sequence over keys and values that lie in memory as they are, a cache that is much larger than what
 * processors keep of it between two tokens. Heads lie side by side in a key's row, so going through it head by head reads a few lines
 * here and a few lines there, which comes in at a quarter of the memory's speed. Here all heads of a chunk go from key to key together;
 * what they add up waits in the first-level cache.
 */
import type { AttentionKernel } from "../kernel.ts";
import { f32x4, i32, v128 } from "./assembler.ts";
import { softmaxOf } from "./attention_forward.ts";
import { multiplyFour } from "./attention_products.ts";
import { activeOf, entry, firstFour, listBytes, resultOf, seenOf } from "./attention_queries.ts";
import type { Rows } from "./attention_rows.ts";
import type { Emitter } from "./emitter.ts";
import { vectorLoop } from "./nest.ts";
import { createPlace, type Index, type Vector } from "./place.ts";

/** Bytes of a key's row that a chunk reads at least, and the most chunks of a sequence. */
const LEAST_BYTES = 512, MOST_CHUNKS = 4;

/** Operands whose rows are read where they lie, so that their lengths are multiples of four. */
export interface DecodeOperands {
  readonly q: Rows;
  readonly k: Rows;
  readonly v: Rows;
}

/** Whether attention is of this kind, as far as its shape goes. */
export const isDecoding = ({ tokens, kvHeads, bias, results }: AttentionKernel): boolean =>
  tokens === 1 && kvHeads > 1 && !bias && results.every(({ of }) => of === "output" || of === "logSumExp");

/** Prepares scratch memory; returns the number of chunks and what writes the chunk of an index. */
export function decodeChunks(spec: AttentionKernel, emitter: Emitter, { q, k, v }: DecodeOperands) {
  const { code, reserve } = emitter, { b, math } = code, { batch, context, heads, kvHeads, width, valueWidth } = spec;
  const parts =
    [MOST_CHUNKS, MOST_CHUNKS / 2, 1].find((count) =>
      kvHeads % count === 0 && (count === 1 || kvHeads / count * width * 4 >= LEAST_BYTES)
    ) ?? 1;
  const own = kvHeads / parts, group = heads / kvHeads, all = own * group, stride = listBytes(context);
  const lists = reserve(stride * all), tops = reserve(16 * all), sums = reserve(4 * valueWidth * all);
  const place = createPlace(code, [context]), seen = seenOf(spec, emitter), softmax = softmaxOf(spec, emitter);
  const output = resultOf(spec, emitter, "output");

  const chunk = (index: Index): void => {
    const sequence = b.let("sequence", i32.div_u(index, parts));
    const firstHead = b.let("first_head", i32.mul(i32.sub(index, i32.mul(sequence, parts)), own));
    const range = seen(sequence, i32.const(0)), { from, count } = range, windowed = spec.window !== undefined;
    /** Every query head with its number among those of the chunk. */
    const eachHead = (use: (number: Index, kvHead: Index) => void) =>
      b.for("own", 0, own, 1, (head) => {
        const kvHead = b.let("kv_head", i32.add(firstHead, head)), first = b.let("first", i32.mul(head, group));
        b.for("member", 0, group, 1, (member) => use(b.let("number", i32.add(first, member)), kvHead));
      });
    const vectorAt = (base: Index, number: Index) => b.let("at", i32.add(base, i32.shl(number, 4)));
    const listOf = (number: Index) => b.let("list", i32.add(lists, i32.mul(number, stride)));
    const headOf = (number: Index) => b.let("head", i32.add(i32.mul(firstHead, group), number));
    const rowOf = (number: Index) => b.let("row", i32.add(i32.mul(sequence, heads), headOf(number)));

    b.for("number", 0, all, 1, (number) => b.emit(v128.store(vectorAt(tops, number), f32x4.const(-Infinity))));
    vectorLoop(place, 0, context, (key) => {
      const active = b.let("active", activeOf(range, key, windowed)), { lanes } = place;
      eachHead((number, kvHead) => {
        const query = q.fill(i32.const(0), [sequence, i32.const(0), headOf(number)], 1, i32.const(1));
        const at = query.row(i32.const(0)), keys = k.fill(i32.const(0), [sequence, i32.const(0), kvHead], 1, count);
        const held = (i: number): Vector => v128.load(at, { offset: 16 * i, align: 4 });
        const product = multiplyFour(code, held, keys, { first: key, lanes, last: context - 1 });
        const scaled = f32x4.mul(product, f32x4.const(spec.scale));
        const score = b.let("score", v128.bitselect(scaled, f32x4.const(-Infinity), active));
        b.emit(v128.store(entry(listOf(number), key), score));
        const top = vectorAt(tops, number);
        b.emit(v128.store(top, f32x4.max(v128.load(top), score)));
      });
    }, { range: { from: firstFour(range, spec.window), to: b.let("up_to", i32.and(i32.add(count, 3), -4)) } });

    b.for("number", 0, all, 1, (number) => {
      const top = vectorAt(tops, number);
      b.emit(v128.store(top, softmax(range, rowOf(number), listOf(number), v128.load(top))));
    });
    if (!output) return;

    const sumsOf = (number: Index) => b.let("sums", i32.add(sums, i32.mul(number, 4 * valueWidth)));
    b.for("at", 0, 4 * valueWidth * all, 16, (at) => b.emit(v128.store(i32.add(sums, at), f32x4.const(0))));
    const add = (key: Index, number: number) =>
      eachHead((head, kvHead) => {
        const values = v.fill(i32.const(0), [sequence, i32.const(0), kvHead], 1, count), first = values.row(key);
        const at = b.let("weight_at", entry(listOf(head), key)), to = sumsOf(head);
        const weights = Array.from({ length: number }, (_, r) => b.let("weight", v128.load32_splat(at, 4 * r)));
        for (let i = 0; i < valueWidth / 4; i++) {
          const total = weights.reduce<Vector>((sum, weight, r) => {
            const row = v128.load(first, { offset: r * values.stride + 16 * i, align: 4 });
            return math.madd(weight, row, sum);
          }, v128.load(to, 16 * i));
          b.emit(v128.store(to, total, 16 * i));
        }
      });
    const whole = b.let("whole", i32.add(from, i32.and(i32.sub(count, from), -4)));
    b.for("key", from, whole, 4, (key) => add(key, 4));
    b.for("key", whole, count, 1, (key) => add(key, 1));
    b.for("number", 0, all, 1, (number) => {
      const to = b.let("target", i32.add(output, i32.mul(rowOf(number), 4 * valueWidth))), sum = sumsOf(number);
      const scale = b.let("scale", v128.load(vectorAt(tops, number)));
      for (let i = 0; i < valueWidth; i += 4) {
        b.emit(v128.store(to, f32x4.mul(v128.load(sum, 4 * i), scale), 4 * i));
      }
    });
  };
  return { total: batch * parts, chunk };
}
