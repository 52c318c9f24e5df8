/** Sums of products of bytes of some columns of codes, side by side, in registers. */
import type { LeftBytes } from "./activations.ts";
import type { Ahead } from "./ahead.ts";
import { i16x8, i32x4, v128 } from "./assembler.ts";
import { createByteSum, type PairProducts, pairsInWord, RELAXED_PAIRS } from "./byte_sums.ts";
import { sweepCodes, TURN } from "./code_sweep.ts";
import type { CodedOperand } from "./coded_operand.ts";
import { COLUMN, type Contraction, outerAxes, ROW } from "./contraction.ts";
import type { Index, KernelCode, Place, Vector } from "./place.ts";
import { type Unpacking, unpackingInPlace, unpackingOf } from "./unpacking.ts";

/** Most columns side by side: as many as become one vector. */
export const COLUMNS = 4;
/** Bytes of a vector. */
const VECTOR = 16;
/**
 * Elements of a sum from which on it is worth adding up parts, as many as keep so many sums up at one time: an instruction that adds
 * four products waits for the one before for some four cycles, and machines start two in each.
 */
const LONG = 512, SUMS = 8;

/** Sums by column, row and digit of the activations. */
export interface ColumnSums {
  clear(): void;
  /** Adds a group's products of columns, which lie some bytes apart; `x` is where the activations of its first row lie. */
  add(columns: readonly Place[], apart: number | undefined, x: Index, ahead: Ahead | undefined): void;
  /** A sum so far, as a vector of four parts of it. */
  value(column: number, row: number, digit: number): Vector;
}

/** How the columns of a product are summed up. */
export interface ColumnPlan {
  readonly unpacking: Unpacking;
  /** Columns side by side. */
  readonly atOnce: number;
  /** Whether the next ones are read ahead. */
  readonly isAhead: boolean;
}

/**
 * Bytes of a column's codes from which on four columns are read side by side and the next four ahead (`ahead.ts`), and from which on
 * they are not read ahead. Shorter ones are a few lines each: machines follow two of them best by themselves. Longer ones are
 * fetched by the machine, too, and reading those of eight columns takes longer.
 */
const AHEAD = { from: 512, below: 2560 };

/** Codes stay in place, and columns stand side by side, where their sums then fit registers. */
export function planColumns(
  contraction: Contraction,
  operand: CodedOperand,
  { digits }: LeftBytes,
  code: KernelCode,
): ColumnPlan {
  const { axes, extents } = contraction, vectors = (extents[ROW] ?? 1) * digits;
  const product = (axes: readonly number[]) => axes.reduce((elements, axis) => elements * (extents[axis] ?? 1), 1);
  const inPlace = vectors === 1 ? unpackingInPlace(operand, code, product(axes)) : undefined;
  const unpacking = inPlace ?? unpackingOf(operand, code), most = columnsAtOnce(vectors * unpacking.parts, code.fours);
  const bytes = product(outerAxes(contraction)) * operand.length * operand.bits / 8;
  const atOnce = bytes < AHEAD.from ? Math.min(most, COLUMNS / 2) : most;
  // Whole turns are what a column takes, so that the last ones' lines end where the codes do.
  const isWhole = operand.length % TURN === 0 && (extents[COLUMN] ?? 1) >= 2 * COLUMNS;
  return { unpacking, atOnce, isAhead: isWhole && atOnce === COLUMNS && bytes < AHEAD.below };
}

/**
 * How many columns are used side by side: as many as keep their sums in registers. Without an instruction for fours sums in 16 bits
 * stand beside them, and more than two of each are better off one column after the other.
 */
function columnsAtOnce(perColumn: number, fours: boolean): number {
  if (!fours) return perColumn <= 2 ? COLUMNS : 1;
  return [COLUMNS, COLUMNS / 2].find((columns) => columns * perColumn <= SUMS) ?? 1;
}

/** Declares the sums of columns. */
export function createColumnSums(
  contraction: Contraction,
  operand: CodedOperand,
  plan: ColumnPlan,
  { digits, rowStride }: LeftBytes,
  code: KernelCode,
): ColumnSums {
  const { b } = code, { atOnce, unpacking: { parts, largest, join } } = plan;
  const vectors = (contraction.extents[ROW] ?? 1) * digits;
  // Sums in 16 bits do not wait for long.
  const ways = code.fours && operand.length >= LONG ? Math.max(1, Math.floor(SUMS / (atOnce * vectors * parts))) : 1;
  const pairs = code.relaxed ? RELAXED_PAIRS : PLAIN_PAIRS, room = pairsInWord(largest);
  const several = (count: number) => Array.from({ length: count }, () => createByteSum(code, room, pairs));
  const sums = Array.from(
    { length: atOnce },
    () => Array.from({ length: vectors }, () => Array.from({ length: parts }, () => several(ways))),
  );
  const all = sums.flat(3);
  return {
    clear: () => all.forEach(({ total }) => b.set(total, i32x4.const(0))),
    add(columns, apart, x, ahead) {
      const pointer = b.let("x", x);
      let way = 0, count = 0;
      const sweep = { x: pointer, step: VECTOR * digits, apart };
      sweepCodes(columns, operand, plan.unpacking, sweep, (codes, sixteens, last) => {
        way = (way + 1) % ways;
        const xs = new Map(Array.from(new Set(sixteens.map(({ at }) => at)), (at) => [
          at,
          Array.from({ length: vectors }, (_, i) => {
            const offset = Math.floor(i / digits) * rowStride + VECTOR * (at * digits + i % digits);
            return b.let("x", v128.load(pointer, { offset, align: 1 }));
          }),
        ]));
        codes.forEach((read, column) => {
          const bytes = read();
          sixteens.forEach(({ at, part }, k) => {
            const own = b.let("codes", bytes[k] ?? i32x4.const(0));
            xs.get(at)?.forEach((value, i) => sums[column]?.[i]?.[part]?.[way]?.add(value, own));
          });
        });
        count += xs.size;
        if (!last) return;
        all.forEach((sum) => sum.finish());
        ahead?.step(columns.length * count * 16 * operand.bits / 8);
        count = 0;
      });
    },
    value(column, row, digit) {
      const own = sums[column]?.[row * digits + digit] ?? [];
      return join(own.map((ways) => ways.map(({ total }): Vector => total).reduce((x, y) => i32x4.add(x, y))));
    },
  };
}

/** Pairs of a byte and the one eight on. */
const PLAIN_PAIRS: PairProducts = {
  multiply: (x, codes) => i16x8.add(i16x8.extmul_low_i8x16_s(x, codes), i16x8.extmul_high_i8x16_s(x, codes)),
  widen: i32x4.extadd_pairwise_i16x8_s,
};
