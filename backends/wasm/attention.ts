/**
 * Generates attention and its gradients. A chunk is one key/value head of one sequence with a block of queries (gradients in keys or
 * values: with all queries, so that they are summed in one order). Scores of one query, or of a
 * block of them, lie in scratch memory; keys behind what a query sees, or before its window, are never used.
 */
import type { AttentionKernel } from "../kernel.ts";
import { i32 } from "./assembler.ts";
import { BLOCK, joinRanges, larger, QUERIES_OF_BLOCK, transposedBytes, transposeRows } from "./attention_blocks.ts";
import { decodeChunks, isDecoding } from "./attention_decode.ts";
import { forwardOf } from "./attention_forward.ts";
import { gradientOf } from "./attention_gradient.ts";
import { hold } from "./attention_products.ts";
import { seenOf } from "./attention_queries.ts";
import { rowsOf } from "./attention_rows.ts";
import type { Emitter } from "./emitter.ts";
import { smaller } from "./nest.ts";
import type { Index } from "./place.ts";

/** Queries of a chunk: enough that dequantized keys are used often. */
const QUERIES = 32;
/** Multiply-adds of a head below which a kernel is one chunk, per point that is small for other kernels. */
const SMALL_PRODUCT = 32;

/** Writes the kernel; returns its number of chunks. */
export function emitAttention(spec: AttentionKernel, emitter: Emitter): number {
  const { code, from, to, small } = emitter, { b } = code;
  const { batch, tokens, context, heads, kvHeads, width, valueWidth } = spec, group = heads / kvHeads;
  const keyExtents = [batch, context, kvHeads];
  const q = rowsOf(emitter, spec.q, [batch, tokens, heads, width]), k = rowsOf(emitter, spec.k, [...keyExtents, width]);
  const v = rowsOf(emitter, spec.v, [...keyExtents, valueWidth]);
  const work = batch * heads * tokens * context * (width + valueWidth), isSmall = work < small * SMALL_PRODUCT;
  const run = (total: number, chunk: (index: Index) => void): number => {
    b.for("chunk", isSmall ? 0 : from, isSmall ? total : to, 1, chunk);
    return isSmall ? 1 : total;
  };
  if (isDecoding(spec) && [q, k, v].every(({ inPlace }) => inPlace)) {
    const { total, chunk } = decodeChunks(spec, emitter, { q, k, v });
    return run(total, chunk);
  }
  // A bias has a row per query; those of attention that is worth blocks, in decoders, have none.
  const blocked = tokens >= BLOCK && !spec.bias, windowed = spec.window !== undefined;
  const gradient = gradientOf(spec, emitter, blocked), writer = gradient ?? forwardOf(spec, emitter, blocked);
  const queries = writer.sums ? tokens : Math.min(tokens, QUERIES), blocks = Math.ceil(tokens / queries);
  const room = { query: q.room(blocked ? BLOCK : 1), keys: k.room(context), values: v.room(context) };
  const lines = {
    keys: emitter.reserve(blocked ? transposedBytes(context, width) : 0),
    values: emitter.reserve(blocked && gradient ? transposedBytes(context, valueWidth) : 0),
  };
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
    const range = { rows: context, from: least ?? i32.const(0), count: most };
    const keyLines = blocked ? transposeRows(code, keys, { ...range, to: lines.keys, length: width }) : undefined;
    const valueLines = blocked && gradient
      ? transposeRows(code, values, { ...range, to: lines.values, length: valueWidth })
      : undefined;
    writer.begin();
    b.for("group", 0, group, 1, (member) => {
      const own = b.let("head", i32.add(i32.mul(head, group), member));
      const rowOf = (token: Index): Index =>
        b.let("row", i32.add(i32.mul(i32.add(i32.mul(sequence, tokens), token), heads), own));
      const whole = keyLines ? b.let("whole", i32.add(start, i32.and(i32.sub(end, start), -BLOCK))) : start;
      if (keyLines) {
        b.for("token", start, whole, BLOCK, (token) => {
          const each = QUERIES_OF_BLOCK.map((r) => b.let("token", i32.add(token, r)));
          const ranges = each.map((one) => seen(sequence, one)), at = [sequence, token, own];
          writer.block({
            at,
            seen: ranges,
            ...joinRanges(b, ranges, windowed),
            rows: each.map(rowOf),
            queries: q.fill(room.query, at, 1, i32.const(BLOCK)),
            keys,
            values,
            keyLines,
            valueLines,
          });
        });
      }
      b.for("token", whole, end, 1, (token) => {
        const at = [sequence, token, own], { count, from } = seen(sequence, token);
        const query = hold(b, q.fill(room.query, at, 1, i32.const(1)));
        writer.query({ at, from, count, row: rowOf(token), query, keys, values });
      });
    });
    writer.end(sequence, head);
  };

  return run(batch * kvHeads * blocks, chunk);
}
