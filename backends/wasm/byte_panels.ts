/** Panels of byte products: codes of eight columns, four bytes of every column, then the next four; and rows of bytes times a panel. */
import { type FunctionBuilder, i16x8, i32, i32x4, i8x16, type Local, v128 } from "./assembler.ts";
import { createByteSum, type PairProducts, pairsInWord, RELAXED_PAIRS } from "./byte_sums.ts";
import { sweepCodes } from "./code_sweep.ts";
import { unpackingOf } from "./unpacking.ts";
import type { CodedOperand } from "./coded_operand.ts";
import { transpose } from "./lanes.ts";
import type { Index, KernelCode, Place, Vector } from "./place.ts";

/** Sums that a product keeps in registers; those in 16 bits stand beside those that they are added to. */
export const sumsAtOnce = ({ fours }: Pick<KernelCode, "fours">): number => fours ? 12 : 8;

/** Rows of a chunk, `atOnce` of them together, then single ones: none need be asked whether it is still one of the chunk's. */
export function eachRowBlock(
  b: FunctionBuilder,
  { from, to }: { readonly from: Index; readonly to: Index },
  atOnce: number,
  use: (row: Index, count: number) => void,
): void {
  const rest = b.let("rest", from);
  if (atOnce > 1) {
    const blocks = i32.div_u(i32.sub(to, rest), atOnce), end = b.let("end", i32.add(rest, i32.mul(blocks, atOnce)));
    b.for("row", rest, end, atOnce, (row) => use(row, atOnce));
    b.set(rest, end);
  }
  b.for("row", rest, to, 1, (row) => use(row, 1));
}

/** Unpacks the codes of columns, four at a time, into a panel: four bytes of every column, then the next four; parts follow each other. */
export function pack(
  code: KernelCode,
  lanes: readonly Place[],
  operand: CodedOperand,
  panel: Index,
  fours: number,
): void {
  const { b } = code, width = 4 * lanes.length;
  for (let first = 0; first < lanes.length; first += 4) {
    const to = b.let("to", i32.add(panel, 4 * first));
    sweepCodes(
      lanes.slice(first, first + 4),
      operand,
      unpackingOf(operand, code),
      { x: to, step: 4 * width },
      (columns, sixteens) => {
        const codes = columns.map((read) => read());
        sixteens.forEach(({ at, part }, k) => {
          const rows = transpose(b, codes.map((own) => b.let("codes", own[k] ?? i32x4.const(0))));
          rows.forEach((row, i) => {
            const offset = width * (4 * at + i + part * fours);
            b.emit(v128.store(to, row, { offset, align: 4 }));
          });
        });
      },
    );
  }
}

export interface ProductOptions {
  /** Vectors of four columns in a panel. */
  readonly vectors: number;
  readonly operand: CodedOperand;
  readonly digits: number;
  /** Fours along the contracted axis. */
  readonly fours: number;
}

/** Sums of products of rows of bytes with a panel: by row, by vector of columns, and by digit. */
export function product(
  code: KernelCode,
  rows: readonly Local<"i32">[],
  panel: Index,
  { vectors, operand, digits, fours }: ProductOptions,
): Vector[][][] {
  const { b } = code,
    right = b.let("right", panel),
    width = 16 * vectors,
    { parts, largest, join } = unpackingOf(operand, code);
  const pairs = code.relaxed ? RELAXED_PAIRS : plainFours(b);
  const room = code.relaxed ? pairsInWord(largest) : 1;
  const zeros = (count: number) => Array.from({ length: count }, () => createByteSum(code, room, pairs));
  const sums = rows.map(() => Array.from({ length: digits }, () => zeros(vectors * parts)));
  // Rows of bytes are vectors of sixteen, digit after digit: fours come in fours, and twice as many use more of 16 bits.
  const turn = !code.fours && fours % 8 === 0 && room >= 8 ? 8 : 4;
  b.for("k", 0, fours, turn, () => {
    for (let u = 0; u < turn; u++) {
      const codes = Array.from({ length: vectors * parts }, (_, i) => {
        const offset = width * (u + i % parts * fours) + 16 * Math.floor(i / parts);
        return b.let("codes", v128.load(right, offset));
      });
      rows.forEach((row, r) =>
        sums[r]?.forEach((own, digit) => {
          const offset = 16 * (Math.floor(u / 4) * digits + digit) + 4 * (u % 4);
          const x = b.let("x", v128.load32_splat(row, offset));
          codes.forEach((code4, i) => own[i]?.add(x, code4));
        })
      );
    }
    sums.flat(2).forEach((sum) => sum.finish());
    b.set(right, i32.add(right, turn * width));
    rows.forEach((row) => b.set(row, i32.add(row, 4 * turn * digits)));
  });
  return sums.map((ofRow) =>
    Array.from({ length: vectors }, (_, v) =>
      ofRow.map((own) => {
        const sum = join(own.slice(v * parts, (v + 1) * parts).map(({ total }) => total));
        return parts > 1 ? b.let("sum", sum) : sum;
      }))
  );
}

/** Sums of four neighbours, without relaxed SIMD: widened at once, since pairs of neighbours are not what comes out. */
const plainFours = (b: FunctionBuilder): PairProducts => ({
  multiply: (x, codes) => {
    const low = b.let("pairs", i32x4.extadd_pairwise_i16x8_s(i16x8.extmul_low_i8x16_s(x, codes)));
    const high = b.let("pairs", i32x4.extadd_pairwise_i16x8_s(i16x8.extmul_high_i8x16_s(x, codes)));
    return i32x4.add(i8x16.shuffle(low, high, EVEN), i8x16.shuffle(low, high, ODD));
  },
  widen: (fours) => fours,
});

const EVEN = [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27];
const ODD = EVEN.map((byte) => byte + 4);
