/**
 * Panels of byte products: codes of eight columns, four bytes of every column, then the next four; and rows of bytes times a panel.
 * Where words are multiplied instead (`word_sums.ts`), four bytes are two parts: the words of the even ones and those of the odd ones.
 */
import { type FunctionBuilder, i32, i32x4, type Local, v128 } from "./assembler.ts";
import { createByteSum, pairsInWord } from "./byte_sums.ts";
import { sweepCodes } from "./code_sweep.ts";
import { codesAsTheyAre, type Unpacking, unpackingOf } from "./unpacking.ts";
import type { CodedOperand } from "./coded_operand.ts";
import { transpose } from "./lanes.ts";
import type { Index, KernelCode, Place, Vector } from "./place.ts";
import { createWordSum, wordsOfBytes } from "./word_sums.ts";

/** What a panel is made of. */
export interface PanelKind {
  readonly unpacking: Unpacking;
  readonly words: boolean;
  /** Vectors of four bytes of four columns. */
  readonly parts: number;
  /** Rows whose sums fit registers beside each other, for one vector of columns and one digit. */
  readonly rows: number;
}

/** The panels of an operand, integers of which are multiplied by integers or by two digits of an f32. */
export function panelKindOf(operand: CodedOperand, code: KernelCode): PanelKind {
  // Two halves of 8 bits take as long as words here, and take bytes of rows as they are.
  const words = !code.relaxed, unpacking = words ? codesAsTheyAre(operand) : unpackingOf(operand, code);
  // Sums in 16 bits stand beside those that they are added to.
  const sums = words || code.fours ? 12 : 8;
  return { unpacking, words, parts: words ? 2 : unpacking.parts, rows: sums / unpacking.parts };
}

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
  { unpacking, words }: PanelKind,
  panel: Index,
  fours: number,
): void {
  const { b } = code, width = 4 * lanes.length;
  for (let first = 0; first < lanes.length; first += 4) {
    const to = b.let("to", i32.add(panel, 4 * first));
    sweepCodes(
      lanes.slice(first, first + 4),
      operand,
      unpacking,
      { x: to, step: 4 * width },
      (columns, sixteens) => {
        const codes = columns.map((read) => read());
        sixteens.forEach(({ at, part }, k) => {
          const rows = transpose(b, codes.map((own) => b.let("codes", own[k] ?? i32x4.const(0))));
          rows.forEach((row, i) => {
            const stored = words ? wordsOfBytes(b.let("bytes", row)) : [row];
            stored.forEach((own, word) => {
              const offset = width * (4 * at + i + (part + word) * fours);
              b.emit(v128.store(to, own, { offset, align: 4 }));
            });
          });
        });
      },
    );
  }
}

export interface ProductOptions {
  /** Vectors of four columns in a panel. */
  readonly vectors: number;
  readonly kind: PanelKind;
  readonly digits: number;
  /** Fours along the contracted axis. */
  readonly fours: number;
}

/** Sums of products of rows of bytes with a panel: by row, by vector of columns, and by digit. */
export function product(
  code: KernelCode,
  rows: readonly Local<"i32">[],
  panel: Index,
  options: ProductOptions,
): Vector[][][] {
  const { vectors, kind, digits, fours } = options;
  if (kind.words) return productOfWords(code, rows, panel, options);
  const { b } = code, right = b.let("right", panel), width = 16 * vectors, { parts, largest, join } = kind.unpacking;
  const room = pairsInWord(largest);
  const zeros = (count: number) => Array.from({ length: count }, () => createByteSum(code, room));
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

/** The same of words, by integers of one digit, of which sixteen are the words of the even ones and then those of the odd ones. */
function productOfWords(
  code: KernelCode,
  rows: readonly Local<"i32">[],
  panel: Index,
  { vectors, kind: { parts }, digits, fours }: ProductOptions,
): Vector[][][] {
  const { b } = code, right = b.let("right", panel), width = 16 * vectors, turn = 4;
  if (digits > 1) throw new Error("Internal error: panels of words are multiplied by integers of one digit");
  const sums = rows.map(() => Array.from({ length: vectors }, () => createWordSum(code, digits)));
  b.for("k", 0, fours, turn, () => {
    for (let i = 0; i < turn * parts; i++) {
      const u = Math.floor(i / parts), part = i % parts, at = width * (u + part * fours);
      const codes = Array.from({ length: vectors }, (_, v) => b.let("codes", v128.load(right, at + 16 * v)));
      rows.forEach((row, r) => {
        const x = b.let("x", v128.load32_splat(row, 16 * part + 4 * u));
        codes.forEach((words, v) => sums[r]?.[v]?.add(x, words));
      });
    }
    b.set(right, i32.add(right, turn * width));
    rows.forEach((row) => b.set(row, i32.add(row, 4 * turn * parts)));
  });
  return sums.map((ofRow) => ofRow.map(({ totals }) => [...totals]));
}
