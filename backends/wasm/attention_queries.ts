/** How attention and its gradients walk over queries and the keys that these see. */
import type { AttentionKernel } from "../kernel.ts";
import { f32x4, i32, i32x4, v128 } from "./assembler.ts";
import { BLOCK, multiplyBlock, QUERIES_OF_BLOCK, type Range, STEP, type Transposed } from "./attention_blocks.ts";
import { type HeldRow, multiplyFour } from "./attention_products.ts";
import type { Vectors } from "./attention_rows.ts";
import type { Emitter } from "./emitter.ts";
import { smaller, vectorLoop } from "./nest.ts";
import { createPlace, type Index, type Place, type Vector } from "./place.ts";

/** One query and what it looks at. */
export interface Query {
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

/** `BLOCK` queries that follow each other, and what they look at. */
export interface QueryBlock {
  /** Sequence, token, head of the first. */
  readonly at: readonly Index[];
  /** What each of them sees, what all of them see, and what holds all that any sees. */
  readonly seen: readonly Range[];
  readonly common: Range;
  readonly range: Range;
  /** Their rows among all queries. */
  readonly rows: readonly Index[];
  /** Their vectors. */
  readonly queries: Vectors;
  readonly keys: Vectors;
  readonly values: Vectors;
  readonly keyLines: Transposed;
  readonly valueLines: Transposed | undefined;
}

/** What is done for a query or a block of them, and for a chunk before and after. */
export interface QueryWriter {
  /** Whether gradients are summed over queries. */
  readonly sums: boolean;
  begin(): void;
  query(query: Query): void;
  block(block: QueryBlock): void;
  end(sequence: Index, head: Index): void;
}

/** Address of a result, or undefined when it is not asked for. */
export function resultOf(
  spec: AttentionKernel,
  { code }: Emitter,
  of: AttentionKernel["results"][number]["of"],
): Index | undefined {
  const found = spec.results.find((result) => result.of === of);
  return found && code.buffers[found.buffer]?.base;
}

/** A writer of the keys that a query sees, from `from` to before `count`; never is `from` behind `count`. */
export function seenOf({ causal, window, positions, context, batch, tokens }: AttentionKernel, { code }: Emitter) {
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
export function sweepOf({ bias, scale, batch, heads, tokens, context, window }: AttentionKernel, { code }: Emitter) {
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
export function openAll(place: Place, at: readonly Index[], body: () => void, variable = 0): void {
  const index = at[variable];
  if (!index) return body();
  place.within(variable, index, undefined, () => openAll(place, at, body, variable + 1));
}

/** The multiple of four at or before the first key that a query sees. */
export const firstFour = ({ from }: Pick<Query, "from">, window: number | undefined): Index =>
  window === undefined ? i32.const(0) : i32.and(from, -4);

/** Address of the f32 of a key in a list. */
export const entry = (list: Index, key: Index): Index => i32.add(list, i32.shl(key, 2));

/** Bytes of a list of f32 per key, whole steps of a block and one of four. */
export const listBytes = (context: number): number => 4 * (Math.ceil(context / STEP) * STEP + 4);

/** A writer of loops over all keys that a block's queries see; `use` gets every query's scores of `STEP` keys, in fours. */
export function blockSweepOf({ scale, window }: AttentionKernel, { code }: Emitter) {
  const { b } = code;
  return (
    { queries, keyLines, range, seen }: QueryBlock,
    use: (four: { key: Index; r: number; score: Vector; active: () => Vector }) => void,
    behind: (key: Index) => void = () => {},
  ) => {
    const rows = addressesOf(queries);
    b.for("key", window === undefined ? i32.const(0) : i32.and(range.from, -STEP), range.count, STEP, (key) => {
      multiplyBlock(code, rows, keyLines, key).forEach((fours, r) =>
        fours.forEach((product, half) => {
          const first = b.let("four", i32.add(key, 4 * half)), score = f32x4.mul(product, f32x4.const(scale));
          use({ key: first, r, score, active: () => activeOf(seen[r], first, window !== undefined) });
        })
      );
      behind(key);
    });
  };
}

/** Addresses of a block's rows. */
export const addressesOf = (rows: Vectors): readonly Index[] => QUERIES_OF_BLOCK.map((r) => rows.row(i32.const(r)));

/** All ones in the lanes of the keys `key` … `key + 3` that lie within a range. */
export function activeOf(range: Range | undefined, key: Index, windowed: boolean): Vector {
  if (!range) throw new Error(`Internal error: a block has ${BLOCK} queries`);
  const numbers = i32x4.add(i32x4.splat(key), i32x4.const(0, 1, 2, 3));
  const before = i32x4.lt_s(numbers, i32x4.splat(range.count));
  return windowed ? v128.and(before, i32x4.ge_s(numbers, i32x4.splat(range.from))) : before;
}
