/** Sums of products of some columns of codes, as bytes or words, side by side in registers. */
import type { LeftBytes } from "./activations.ts";
import type { Ahead } from "./ahead.ts";
import { i32x4, type Local, v128 } from "./assembler.ts";
import { createByteSum, createPartSums, pairsInWord } from "./byte_sums.ts";
import { sweepCodes, TURN } from "./code_sweep.ts";
import type { CodedOperand } from "./coded_operand.ts";
import { COLUMN, type Contraction, outerAxes, ROW } from "./contraction.ts";
import { VECTOR } from "./layout.ts";
import type { Index, KernelCode, Place, Vector } from "./place.ts";
import { codesAsTheyAre, type Unpacking, unpackingInPlace, unpackingOf } from "./unpacking.ts";
import { createWordSum, wordsOfBytes } from "./word_sums.ts";

/** Most columns side by side: as many as become one vector. */
export const COLUMNS = 4;
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
  { digits, words }: LeftBytes,
  code: KernelCode,
): ColumnPlan {
  const { axes, extents } = contraction, vectors = (extents[ROW] ?? 1) * digits;
  const product = (axes: readonly number[]) => axes.reduce((elements, axis) => elements * (extents[axis] ?? 1), 1);
  const inPlace = vectors === 1 ? unpackingInPlace(operand, code, product(axes)) : undefined;
  const unpacking = inPlace ?? (words ? codesAsTheyAre(operand) : unpackingOf(operand, code));
  const most = columnsAtOnce(vectors * unpacking.parts, code.fours || words);
  const bytes = product(outerAxes(contraction)) * operand.length * operand.bits / 8;
  const atOnce = bytes < AHEAD.from ? Math.min(most, COLUMNS / 2) : most;
  // Whole turns are what a column takes, so that the last ones' lines end where the codes do.
  const isWhole = operand.length % TURN === 0 && (extents[COLUMN] ?? 1) >= 2 * COLUMNS;
  return { unpacking, atOnce, isAhead: isWhole && atOnce === COLUMNS && bytes < AHEAD.below };
}

/**
 * How many columns are used side by side: as many as keep their sums in registers. Products of pairs have sums in 16 bits beside them,
 * or two of them for one sum, and what takes more than two per column is better off one column after the other.
 */
function columnsAtOnce(perColumn: number, areAlone: boolean): number {
  if (!areAlone) return perColumn <= 2 ? COLUMNS : 1;
  return [COLUMNS, COLUMNS / 2].find((columns) => columns * perColumn <= SUMS) ?? 1;
}

/** Declares the sums of columns. */
export function createColumnSums(
  contraction: Contraction,
  operand: CodedOperand,
  plan: ColumnPlan,
  left: LeftBytes,
  code: KernelCode,
): ColumnSums {
  const { digits, vectors, rowStride } = left, { b } = code, rows = contraction.extents[ROW] ?? 1;
  const sums = left.words ? wordSums(rows, plan, left, code) : byteSums(rows, operand, plan, left, code);
  return {
    clear: () => sums.all.forEach((total) => b.set(total, i32x4.const(0))),
    add(columns, apart, x, ahead) {
      const pointer = b.let("x", x), sweep = { x: pointer, step: VECTOR * vectors, apart };
      let count = 0;
      sweepCodes(columns, operand, plan.unpacking, sweep, (codes, sixteens, last) => {
        sums.next();
        const xs = new Map(Array.from(new Set(sixteens.map(({ at }) => at)), (at) => [
          at,
          Array.from({ length: rows * vectors }, (_, i) => {
            const offset = Math.floor(i / vectors) * rowStride + VECTOR * (at * vectors + i % vectors);
            return b.let("x", v128.load(pointer, { offset, align: 1 }));
          }),
        ]));
        codes.forEach((read, column) => {
          const bytes = read();
          sixteens.forEach(({ at, part }, k) => {
            const own = b.let("codes", bytes[k] ?? i32x4.const(0));
            sums.add(column, part, xs.get(at) ?? [], own);
          });
        });
        count += xs.size;
        if (!last) return;
        sums.finish();
        ahead?.step(columns.length * count * 16 * operand.bits / 8);
        count = 0;
      });
    },
    value: (column, row, digit) => sums.value(column, row * digits + digit),
  };
}

/** The sums of all columns, by number of row and digit. */
interface Sums {
  /** What sums are kept in. */
  readonly all: readonly Local<"v128">[];
  /** To be called before any codes are added that are read together. */
  next(): void;
  /** Adds the products of sixteen codes of a column with those of the rows' vectors that belong to them. */
  add(column: number, part: number, xs: readonly Local<"v128">[], codes: Local<"v128">): void;
  finish(): void;
  value(column: number, number: number): Vector;
}

/** Sums of products of bytes: every digit by every part of the codes. */
function byteSums(
  rows: number,
  operand: CodedOperand,
  { atOnce, unpacking: { parts, largest, join, stays, inWords } }: ColumnPlan,
  { digits }: LeftBytes,
  code: KernelCode,
): Sums {
  const vectors = rows * digits;
  // Sums in 16 bits do not wait for long.
  const ways = code.fours && operand.length >= LONG ? Math.max(1, Math.floor(SUMS / (atOnce * vectors * parts))) : 1;
  const room = pairsInWord(largest);
  const several = (count: number) => Array.from({ length: count }, () => createByteSum(code, room));
  const own = () =>
    inWords
      ? createPartSums(code, stays, room).map((sum) => [sum])
      : Array.from({ length: parts }, () => several(ways));
  const sums = Array.from({ length: atOnce }, () => Array.from({ length: vectors }, own));
  const all = sums.flat(3);
  let way = 0;
  return {
    all: [...new Set(all.map(({ total }) => total))],
    next() {
      way = (way + 1) % ways;
    },
    add: (column, part, xs, codes) => xs.forEach((x, i) => sums[column]?.[i]?.[part]?.[way]?.add(x, codes)),
    finish: () => all.forEach((sum) => sum.finish()),
    value(column, number) {
      const own = sums[column]?.[number] ?? [];
      return join(own.map((ways) => ways.map(({ total }): Vector => total).reduce((x, y) => i32x4.add(x, y))));
    },
  };
}

/** Sums of products of words: those of even and of odd elements by those of codes. */
function wordSums(rows: number, { atOnce }: ColumnPlan, { digits, vectors }: LeftBytes, code: KernelCode): Sums {
  const { b } = code, start = () => createWordSum(code, digits);
  const sums = Array.from({ length: atOnce }, () => Array.from({ length: rows }, start)), all = sums.flat();
  return {
    all: all.flatMap(({ totals }) => totals),
    next: () => {},
    add(column, _, xs, codes) {
      const words = wordsOfBytes(codes).map((own) => b.let("words", own));
      xs.forEach((x, i) => sums[column]?.[Math.floor(i / vectors)]?.add(x, words[i % vectors] ?? i32x4.const(0)));
    },
    finish: () => all.forEach((sum) => sum.finish()),
    value: (column, number) => sums[column]?.[Math.floor(number / digits)]?.totals[number % digits] ?? i32x4.const(0),
  };
}
